"""Files are read once, whole, and never from outside their root."""

import os
from pathlib import Path

import pytest

from captioning.errors import ImageError, RootUnavailable
from captioning.store.claims import Work
from captioning.values import Reason
from worker.reading import is_gone, is_visible, read_file


def work(path: bytes) -> Work:
    return Work(1, 1, path, 0, 0, 0, was_missed=False)


def reason(root: Path, path: bytes, max_bytes: int = 1000) -> Reason:
    with pytest.raises(ImageError) as caught:
        read_file(os.fsencode(root), work(path), max_bytes)
    return caught.value.reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jpg").write_bytes(b"hello")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return folder


def test_a_file_is_read_and_hashed(root: Path) -> None:
    read = read_file(os.fsencode(root), work(b"sub/a.jpg"), 1000)
    assert read.data == b"hello"
    assert read.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_a_name_of_any_bytes_is_read(root: Path) -> None:
    name = b"caf\xe9\n.jpg"
    Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"x")
    assert read_file(os.fsencode(root), work(name), 1000).data == b"x"


@pytest.mark.parametrize(
    "path", [b"../secret.txt", b"/etc/passwd", b"sub/../../secret.txt", b"link", b"sub/up/secret.txt"]
)
def test_no_path_leads_out_of_the_root(root: Path, path: bytes) -> None:
    (root / "link").symlink_to("/etc/passwd")
    (root / "sub" / "up").symlink_to("../..")
    assert reason(root, path) is Reason.FORBIDDEN


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "link.jpg").symlink_to("sub/a.jpg")
    assert read_file(os.fsencode(root), work(b"link.jpg"), 1000).data == b"hello"


def test_pipes_and_folders_are_no_pictures_and_nobody_waits_for_them(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    assert reason(root, b"pipe.jpg") is Reason.UNREADABLE
    assert reason(root, b"sub") is Reason.UNREADABLE


def test_what_is_gone_is_missing_and_what_is_large_is_too_large(root: Path) -> None:
    assert reason(root, b"none.jpg") is Reason.MISSING
    assert reason(root, b"sub/a.jpg/deeper") is Reason.MISSING
    assert reason(root, b"sub/a.jpg", max_bytes=4) is Reason.TOO_LARGE


def test_a_root_that_is_empty_or_gone_is_nobodys_fault(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not is_visible(os.fsencode(empty))
    assert is_visible(os.fsencode(root))
    for place in (empty, tmp_path / "gone"):
        with pytest.raises(RootUnavailable):
            read_file(os.fsencode(place), work(b"a.jpg"), 1000)


def test_a_file_is_gone_only_together_with_its_folder(root: Path) -> None:
    home = os.fsencode(root)
    (root / "sub" / "b.jpg").touch()
    (root / "sub" / "a.jpg").unlink()
    assert not is_gone(home, b"sub/a.jpg")  # its neighbour is there: somebody deleted it
    (root / "sub" / "b.jpg").unlink()
    assert is_gone(home, b"sub/a.jpg")
    assert is_gone(home, b"never/there.jpg")
