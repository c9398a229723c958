"""A file is read once, completely, and never from outside its root."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from captioning.errors import FileUnreachable, ImageError, RootUnavailable
from captioning.store.claims import ClaimedItem
from captioning.values import Reason
from worker.reader import is_visible, read_file


def item(path: bytes, *, was_missed: bool = False) -> ClaimedItem:
    return ClaimedItem(1, 1, path, 0, 0, 0, was_missed)


def reason(root: Path, path: bytes, max_bytes: int = 1000) -> Reason:
    return error_of(root, path, max_bytes).reason


def error_of(root: Path, path: bytes, max_bytes: int = 1000, *, was_missed: bool = False) -> ImageError:
    with pytest.raises(ImageError) as raised:
        read_file(os.fsencode(root), item(path, was_missed=was_missed), max_bytes)
    return raised.value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jpg").write_bytes(b"hello")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return folder


def test_a_file_is_read_and_hashed(root: Path) -> None:
    read = read_file(os.fsencode(root), item(b"sub/a.jpg"), 1000)
    assert read.data == b"hello"
    assert read.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_a_name_of_any_bytes_is_read(root: Path) -> None:
    name = b"caf\xe9\n.jpg"
    Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"x")
    assert read_file(os.fsencode(root), item(name), 1000).data == b"x"


@pytest.mark.parametrize(
    "path", [b"../secret.txt", b"/etc/passwd", b"sub/../../secret.txt", b"link", b"sub/up/secret.txt"]
)
def test_no_path_leads_out_of_the_root(root: Path, path: bytes) -> None:
    (root / "link").symlink_to("/etc/passwd")
    (root / "sub" / "up").symlink_to("../..")
    assert reason(root, path) is Reason.FORBIDDEN


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "link.jpg").symlink_to("sub/a.jpg")
    assert read_file(os.fsencode(root), item(b"link.jpg"), 1000).data == b"hello"


def test_pipes_and_folders_are_unreadable_and_do_not_block(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    assert reason(root, b"pipe.jpg") is Reason.UNREADABLE
    assert reason(root, b"sub") is Reason.UNREADABLE


def test_a_deleted_file_is_missing_and_a_large_one_is_too_large(root: Path) -> None:
    assert reason(root, b"none.jpg") is Reason.MISSING
    assert reason(root, b"sub/a.jpg/deeper") is Reason.MISSING
    assert reason(root, b"sub/a.jpg", max_bytes=4) is Reason.TOO_LARGE


def test_devices_are_unreadable_and_do_not_block() -> None:
    for name in (b"zero", b"random", b"null", b"tty"):
        assert reason(Path("/dev"), name) is Reason.UNREADABLE


def test_links_and_names_that_cannot_work_have_a_reason(root: Path) -> None:
    (root / "ring.jpg").symlink_to("ring.jpg")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "dangling.jpg").symlink_to("sub/none.jpg")
    assert reason(root, b"ring.jpg") is Reason.FORBIDDEN
    assert reason(root, b"one/a.jpg") is Reason.FORBIDDEN
    assert reason(root, b"dangling.jpg") is Reason.MISSING
    assert reason(root, b"a\0b.jpg") is Reason.MISSING
    assert reason(root, b"a" * 300 + b".jpg") is Reason.UNREADABLE


def test_a_sparse_file_counts_with_its_full_length(root: Path) -> None:
    with (root / "giant.jpg").open("wb") as file:
        file.truncate(10**12)
    assert reason(root, b"giant.jpg", max_bytes=256_000_000) is Reason.TOO_LARGE


@contextlib.contextmanager
def repeating(function: Callable[[], object]) -> Iterator[None]:
    """Call a function repeatedly on another thread while the context lasts."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            function()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def results(root: Path, path: bytes, times: int) -> set[bytes | Reason]:
    found: set[bytes | Reason] = set()
    for _ in range(times):
        try:
            found.add(read_file(os.fsencode(root), item(path), 10_000_000).data)
        except ImageError as error:
            found.add(error.reason)
    return found


def test_a_folder_that_becomes_a_link_during_the_read_leads_nowhere(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.jpg").write_bytes(b"from outside")

    def swap() -> None:
        (root / "sub").rename(root / "aside")
        (root / "sub").symlink_to(outside)
        (root / "sub").unlink()
        (root / "aside").rename(root / "sub")

    with repeating(swap):
        found = results(root, b"sub/a.jpg", 5000)
    assert found <= {b"hello", Reason.FORBIDDEN, Reason.MISSING}


def test_a_file_that_becomes_a_link_during_the_read_leads_nowhere(root: Path, tmp_path: Path) -> None:
    def swap() -> None:
        (root / "sub" / "a.jpg").unlink(missing_ok=True)
        (root / "sub" / "a.jpg").symlink_to(tmp_path / "secret.txt")
        (root / "sub" / "a.jpg").unlink()
        (root / "sub" / "a.jpg").write_bytes(b"hello")

    with repeating(swap):
        found = results(root, b"sub/a.jpg", 5000)
    assert found <= {b"hello", b"", Reason.FORBIDDEN, Reason.MISSING, Reason.CHANGED}


def test_a_file_that_grows_and_shrinks_during_the_read_is_changed(root: Path) -> None:
    path = root / "log.jpg"
    path.touch()

    def grow_and_shrink() -> None:
        with path.open("ab") as file:
            for _ in range(20):
                file.write(b"x" * 50_000)
                file.flush()
            file.truncate(0)

    found: set[bytes | Reason] = set()
    with repeating(grow_and_shrink):
        while Reason.CHANGED not in found:
            found |= results(root, b"log.jpg", 10)
    assert all(isinstance(data, bytes) and data == b"x" * len(data) for data in found - {Reason.CHANGED})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_file_that_is_longer_than_its_stated_size_is_changed() -> None:
    assert reason(Path(f"/proc/{os.getpid()}"), b"status") is Reason.CHANGED


def test_an_empty_or_missing_root_is_not_visible(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not is_visible(os.fsencode(empty))
    assert is_visible(os.fsencode(root))
    for folder in (empty, tmp_path / "gone"):
        with pytest.raises(RootUnavailable):
            read_file(os.fsencode(folder), item(b"a.jpg"), 1000)


def test_a_file_that_is_gone_with_its_whole_folder_may_come_back(root: Path) -> None:
    (root / "c.jpg").touch()
    (root / "sub" / "b.jpg").touch()
    (root / "sub" / "a.jpg").unlink()
    deleted = error_of(root, b"sub/a.jpg")  # another file is there, so nothing was unmounted
    assert not isinstance(deleted, FileUnreachable)
    (root / "sub" / "b.jpg").unlink()
    unmounted = error_of(root, b"sub/a.jpg")
    assert isinstance(unmounted, FileUnreachable)
    assert not unmounted.folder_gone
    assert str(root / "sub") in unmounted.detail
    deeper = error_of(root, b"sub/deeper/a.jpg")
    assert isinstance(deeper, FileUnreachable)
    assert not deeper.folder_gone
    (root / "sub").rmdir()
    gone = error_of(root, b"sub/a.jpg")
    assert isinstance(gone, FileUnreachable)
    assert gone.folder_gone
    assert not isinstance(error_of(root, b"sub/a.jpg", was_missed=True), FileUnreachable)
