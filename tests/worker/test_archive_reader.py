"""A worker reads members of archives in place, below its root, and passes through a tar file once."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captioning.errors import FileUnreachable, ImageError
from captioning.settings import read_settings
from captioning.store.claims import ClaimedItem
from captioning.values import Reason
from tests.support.archives import write_archive, write_tar, write_zip
from worker.file_reader import FileReader
from worker.reader import FileBytes

ReadItem = Callable[[ClaimedItem], FileBytes]

KINDS = ("a.zip", "a.tar", "a.tgz")
FILES = {f"{i}.jpg": b"content %d" % i for i in range(6)}


def item(path: str, archive: Path | None = None) -> ClaimedItem:
    mtime_ns = archive.stat().st_mtime_ns if archive is not None else 0
    return ClaimedItem(1, 1, os.fsencode(path), 0, mtime_ns, 0, was_missed=False)


@pytest.fixture
def files() -> Iterator[FileReader]:
    reader = FileReader(read_settings(max_bytes=1000))
    yield reader
    reader.close()


@pytest.fixture
def read(files: FileReader, tmp_path: Path) -> ReadItem:
    return lambda item: read_one(files, tmp_path, item)


def read_one(files: FileReader, root: Path, item: ClaimedItem) -> FileBytes:
    with files.reading(os.fsencode(root), [item], lambda: None) as reads:
        return next(reads)[1]()


def reason(read: ReadItem, wanted: ClaimedItem) -> Reason:
    with pytest.raises(ImageError) as raised:
        read(wanted)
    return raised.value.reason


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_and_hashed_beside_plain_files(tmp_path: Path, read: ReadItem, kind: str) -> None:
    path = write_archive(tmp_path / kind, FILES)
    (tmp_path / "plain.jpg").write_bytes(b"content 0")
    members = [read(item(f"{kind}!/{name}", path)) for name in FILES]
    assert [member.data for member in members] == list(FILES.values())
    assert members[0] == read(item("plain.jpg"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_was_modified_since_it_was_listed_fails_as_changed(
    tmp_path: Path, read: ReadItem, kind: str
) -> None:
    path = write_archive(tmp_path / kind, FILES)
    listed = item(f"{kind}!/1.jpg", path)
    os.utime(path, ns=(0, 1))
    assert reason(read, listed) is Reason.CHANGED
    assert read(replace(listed, mtime_ns=1)).data == b"content 1"


def test_an_archive_that_is_gone_or_outside_of_the_root_is_treated_as_a_file_would_be(
    tmp_path: Path, files: FileReader
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "other.jpg").write_bytes(b"x")
    outside = write_zip(tmp_path / "secret.zip", FILES)
    (root / "link.zip").symlink_to(outside)

    def read(wanted: ClaimedItem) -> FileBytes:
        return read_one(files, root, wanted)

    assert reason(read, item("gone.zip!/1.jpg")) is Reason.MISSING
    assert reason(read, item("link.zip!/1.jpg", outside)) is Reason.FORBIDDEN
    assert reason(read, item("../secret.zip!/1.jpg", outside)) is Reason.FORBIDDEN
    with pytest.raises(FileUnreachable):
        read(item("unmounted/a.zip!/1.jpg"))


def test_a_damaged_archive_fails_its_members_with_a_reason(tmp_path: Path, read: ReadItem) -> None:
    (tmp_path / "a.zip").write_bytes(b"no archive")
    assert reason(read, item("a.zip!/1.jpg", tmp_path / "a.zip")) is Reason.UNREADABLE


def test_files_in_a_folder_called_like_an_archive_are_files(tmp_path: Path, read: ReadItem) -> None:
    (tmp_path / "a.zip!").mkdir()
    (tmp_path / "a.zip!" / "b.jpg").write_bytes(b"plain")
    assert read(item("a.zip!/b.jpg")).data == b"plain"


def test_a_compressed_tar_is_passed_through_once_in_whatever_chunks(tmp_path: Path, files: FileReader) -> None:
    path = write_tar(tmp_path / "a.tgz", FILES, "gz")
    passed: list[None] = []
    for chunk in ("0.jpg", "1.jpg"), ("2.jpg",), ("4.jpg", "5.jpg"):
        items = [item(f"a.tgz!/{name}", path) for name in chunk]
        with files.reading(os.fsencode(tmp_path), items, lambda: passed.append(None)) as reads:
            assert [read().data for _, read in reads] == [FILES[name] for name in chunk]
    assert len(passed) == len(FILES)  # each header once, though they came in three chunks


def test_more_archives_than_are_kept_open_are_read_in_turn(tmp_path: Path, read: ReadItem) -> None:
    paths = [write_archive(tmp_path / f"{i}.zip", {"a.jpg": b"%d" % i}) for i in range(5)]
    for _ in range(2):
        assert [read(item(f"{path.name}!/a.jpg", path)).data for path in paths] == [b"0", b"1", b"2", b"3", b"4"]
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) < 100
