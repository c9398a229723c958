"""Files of a slow disk are read several at once; nothing else about reading changes."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from captioning.errors import FileUnreachable, ImageError, RootUnavailable
from captioning.store.leases import ClaimedItem
from captioning.values import Reason
from worker.disk_reader import READERS, WAITING_BYTES, DiskReader
from worker.reader import FileBytes

SLOW_SECONDS = 0.02  # for a file, as on a mount over a network
NAMES = [f"{number}.jpg".encode() for number in range(50)]


class Disk:
    """A disk on which each file takes long; some cannot be read."""

    def __init__(self, errors: dict[bytes, Exception] | None = None) -> None:
        self.errors = errors or {}
        self.threads: dict[bytes, threading.Thread] = {}  # that read each file
        self.together = 0  # most files that were read at once
        self._now = 0
        self._lock = threading.Lock()

    def read(self, item: ClaimedItem) -> FileBytes:
        with self._lock:
            self._now += 1
            self.together = max(self.together, self._now)
            self.threads[item.path] = threading.current_thread()
        time.sleep(SLOW_SECONDS)
        with self._lock:
            self._now -= 1
        if item.path in self.errors:
            raise self.errors[item.path]
        return FileBytes(item.path, "")


def items(names: list[bytes], size: int = 1000) -> list[ClaimedItem]:
    return [ClaimedItem(number, number, name, size, 0, 0, was_missed=False) for number, name in enumerate(names)]


@pytest.fixture
def reader() -> Iterator[DiskReader]:
    with closing(DiskReader()) as made:
        yield made


def read_all(reader: DiskReader, disk: Disk, wanted: list[ClaimedItem], member: bytes = b"!") -> list[object]:
    """Return what reading each item gives: its bytes or its error."""
    found: list[object] = []
    with reader.reading(wanted, disk.read, lambda item: member not in item.path) as reads:
        for item, read in reads:
            try:
                content = read()
            except ImageError as error:
                found.append(error)
            else:
                assert content.data == item.path
                found.append(content.data)
    return found


def test_files_of_a_slow_disk_are_read_at_once_and_come_in_their_order(reader: DiskReader) -> None:
    disk = Disk()
    assert read_all(reader, disk, items(NAMES)) == NAMES
    assert 1 < disk.together <= READERS


def test_an_error_comes_with_its_file(reader: DiskReader) -> None:
    errors: dict[bytes, Exception] = {
        NAMES[3]: ImageError(Reason.MISSING, "gone"),
        NAMES[20]: FileUnreachable(Reason.UNREADABLE, "far"),
    }
    assert read_all(reader, Disk(errors), items(NAMES)) == [errors.get(name, name) for name in NAMES]


def test_a_root_that_is_gone_ends_reading_where_it_is_noticed(reader: DiskReader) -> None:
    disk, read_before = Disk({NAMES[5]: RootUnavailable("gone")}), []
    with reader.reading(items(NAMES), disk.read, lambda _: True) as reads:
        for _ in range(5):
            item, read = next(reads)
            read_before.append(read().data)
        item, read = next(reads)
        with pytest.raises(RootUnavailable):
            read()
    assert (read_before, item.path) == (NAMES[:5], NAMES[5])
    assert len(disk.threads) < len(NAMES)


def test_members_of_archives_are_read_in_order_on_the_callers_thread(reader: DiskReader) -> None:
    disk = Disk()
    names = [*NAMES[:10], *(b"a.tar!/" + name for name in NAMES), *NAMES[10:]]
    assert read_all(reader, disk, items(names)) == names
    assert {disk.threads[name] for name in names if b"!" in name} == {threading.current_thread()}
    assert disk.threads[NAMES[5]] != threading.current_thread()


def test_large_files_are_not_read_ahead_beyond_a_limit(reader: DiskReader) -> None:
    disk = Disk()
    assert read_all(reader, disk, items(NAMES[:10], size=WAITING_BYTES // 2)) == NAMES[:10]
    assert disk.together <= 2
    alone = Disk()
    assert read_all(reader, alone, items(NAMES[:10], size=2 * WAITING_BYTES)) == NAMES[:10]
    assert alone.together == 1
