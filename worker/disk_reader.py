"""Reads files of folders, one after another; several at once where each takes long, as on a mount over a network."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from captioning.store.claims import ClaimedItem
from worker.reader import FileBytes

Reads = Iterator[tuple[ClaimedItem, Callable[[], FileBytes]]]
"""Each item of a chunk once, with a function that reads it. The function raises what `read_file` raises."""

READERS = 16  # threads
WAITING_BYTES = 128_000_000  # of files that are being read or wait for their turn
_SLOW_SECONDS = 0.002  # for a file; reading one from a local disk takes less than handing it to a thread and back
_SLOW_FILES = 4  # one after another, since a single one may only have waited for Python's lock


class DiskReader:
    """Threads that read the files of chunks on slow disks."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._seconds: deque[float] = deque(maxlen=_SLOW_FILES)  # that the last files took, of all chunks

    @contextmanager
    def reading(
        self,
        items: Sequence[ClaimedItem],
        read: Callable[[ClaimedItem], FileBytes],
        may_overlap: Callable[[ClaimedItem], bool],
    ) -> Iterator[Reads]:
        """Provide the items, in their order, with functions that read them by calling `read`.

        While reads take long, the following items are read ahead on threads, if they may overlap.
        """
        ahead = _ReadAhead(self._threads, items, functools.partial(self._timed, read), may_overlap, self._is_slow)
        try:
            yield ahead.reads()
        finally:
            ahead.cancel()

    def _timed(self, read: Callable[[ClaimedItem], FileBytes], item: ClaimedItem) -> FileBytes:
        began = time.monotonic()
        try:
            return read(item)
        finally:
            self._seconds.append(time.monotonic() - began)

    def _is_slow(self) -> bool:
        last = tuple(self._seconds)
        return len(last) == _SLOW_FILES and min(last) > _SLOW_SECONDS

    def close(self) -> None:
        """End the threads; one that waits for a server that does not answer ends when that call does."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _ReadAhead:
    def __init__(
        self,
        threads: ThreadPoolExecutor,
        items: Sequence[ClaimedItem],
        read: Callable[[ClaimedItem], FileBytes],
        may_overlap: Callable[[ClaimedItem], bool],
        is_slow: Callable[[], bool],
    ) -> None:
        self._threads, self._read, self._may_overlap, self._is_slow = threads, read, may_overlap, is_slow
        self._left = deque(items)
        self._started: deque[tuple[ClaimedItem, Future[FileBytes]]] = deque()

    def reads(self) -> Reads:
        while self._left or self._started:
            if self._is_slow():
                self._start_more()
            if self._started:
                item, future = self._started.popleft()
                yield item, future.result
            else:
                item = self._left.popleft()
                yield item, functools.partial(self._read, item)

    def _start_more(self) -> None:
        waiting = sum(item.size for item, _ in self._started)
        while self._left and len(self._started) < READERS and self._may_overlap(self._left[0]):
            item = self._left[0]
            if self._started and waiting + item.size > WAITING_BYTES:
                return
            self._left.popleft()
            self._started.append((item, self._threads.submit(self._read, item)))
            waiting += item.size

    def cancel(self) -> None:
        for _, future in self._started:
            future.cancel()
