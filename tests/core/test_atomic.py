"""Files and folders appear complete or not at all, with the right permissions, and leave no temporary files."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from captioning import atomic


class PowerCut(BaseException):
    """Ends a writer in the middle of its work."""


@contextmanager
def umask(value: int) -> Iterator[None]:
    previous = os.umask(value)
    yield
    os.umask(previous)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with atomic.replacing(target) as unfinished:
        assert unfinished.parent == target.parent
        unfinished.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, PowerCut])
def test_after_an_exception_the_old_file_stays_and_no_other_file_is_left(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write() -> None:
        with atomic.replacing(target) as unfinished:
            unfinished.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_after_an_exception_a_new_file_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic.replacing(tmp_path / "file"):
        raise ValueError("stop")
    assert names(tmp_path) == []


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.replacing(tmp_path / "none" / "file"):
        pytest.fail("the block ran")


def test_a_new_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    with umask(0o027):
        atomic.write_text(tmp_path / "file", "x")
    assert permissions(tmp_path / "file") == 0o640


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()
    target.chmod(0o604)
    atomic.write_text(target, "x")
    assert permissions(target) == 0o604


def test_a_file_gets_the_mode_that_the_caller_asks_for(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch(mode=0o644)
    with atomic.replacing(target, mode=0o600) as unfinished:
        unfinished.write_text("secret")
        assert permissions(unfinished) == 0o600  # nobody else can read it while it is written
    assert permissions(target) == 0o600


def test_a_text_file_is_written_in_utf_8(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "file", "café")
    assert (tmp_path / "file").read_bytes() == b"caf\xc3\xa9"


def test_two_writers_of_one_file_leave_one_complete_text(tmp_path: Path) -> None:
    target = tmp_path / "file"
    texts = [letter * 100_000 for letter in "ab"]

    def write_often(text: str) -> None:
        for _ in range(20):
            atomic.write_text(target, text)

    writers = [threading.Thread(target=write_often, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not target.exists() or target.read_text() in texts
    assert target.read_text() in texts
    assert names(tmp_path) == ["file"]


def test_a_new_folder_appears_complete_and_its_parents_are_created(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "folder"
    with atomic.new_folder(target) as unfinished:
        (unfinished / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert names(target.parent) == ["folder"]


def test_after_an_exception_there_is_no_folder(tmp_path: Path) -> None:
    def write() -> None:
        with atomic.new_folder(tmp_path / "folder") as unfinished:
            (unfinished / "file").write_text("x")
            raise PowerCut

    with pytest.raises(PowerCut):
        write()
    assert names(tmp_path) == []


def test_of_two_writers_of_a_folder_the_first_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic.new_folder(target) as slow:
        (slow / "file").write_text("slow")
        with atomic.new_folder(target) as fast:
            (fast / "file").write_text("fast")
    assert (target / "file").read_text() == "fast"
    assert names(tmp_path) == ["folder"]


def test_a_file_in_the_place_of_a_new_folder_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.write_text("a file")
    with pytest.raises(OSError, match="folder"), atomic.new_folder(target):
        pass
    assert target.read_text() == "a file"
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    (tmp_path / ".captionmill-0123").write_bytes(b"half a table")
    with atomic.replacing(tmp_path / "table") as unfinished:
        unfinished.write_bytes(b"in use")
        atomic.remove_unfinished(tmp_path)
        assert names(tmp_path) == [unfinished.name]
    assert names(tmp_path) == ["table"]


def test_what_a_killed_writer_of_a_folder_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    (tmp_path / ".captionmill-0123").mkdir()
    (tmp_path / ".captionmill-0123" / "half").write_bytes(b"half a file")
    with atomic.new_folder(tmp_path / "folder") as unfinished:
        atomic.remove_unfinished(tmp_path)
        assert names(tmp_path) == [unfinished.name]
    assert names(tmp_path) == ["folder"]
