"""Reads the remote files of a chunk, several at the same time, because each takes long to answer."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any

from captioning.remote import Download, RemoteStore
from captioning.store.claims import ClaimedItem

WAITING_BYTES = 128_000_000  # of files that are being fetched or wait for their turn, where their sizes are known
_LOOK_SECONDS = 1.0  # between two looks whether anything has arrived


class RemoteReader:
    """Fetches files, `ahead` of them at once, each with one request; yields each when it is complete or has failed."""

    def __init__(
        self,
        remote: RemoteStore,
        root: bytes,
        items: Sequence[ClaimedItem],
        max_bytes: int,
        ahead: int,
        on_progress: Callable[[], object],
    ) -> None:
        self._remote, self._root, self._max_bytes, self._ahead = remote, root, max_bytes, ahead
        self._on_progress = on_progress
        self._left: Iterator[ClaimedItem] = iter(items)
        self._started: dict[Future[Any], tuple[ClaimedItem, Download]] = {}
        self._received = 0  # bytes, of unfinished files, at the last look

    def __enter__(self) -> "RemoteReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, download in self._started.values():
            download.cancel()

    def __iter__(self) -> Iterator[tuple[ClaimedItem, Download]]:
        """Yield the items, the first to be complete first, with their finished downloads."""
        self._start_more()
        while self._started:
            done, _ = wait(self._started, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                self._look_for_progress()
            for future in [future for future in self._started if future in done]:
                finished = self._started.pop(future)
                self._start_more()
                yield finished

    def _start_more(self) -> None:
        waiting = sum(item.size for item, _ in self._started.values())
        while len(self._started) < self._ahead and (waiting < WAITING_BYTES or not self._started):
            item = next(self._left, None)
            if item is None:
                return
            url, is_sized = self._root + b"/" + item.path, item.size > 0
            download = self._remote.start(url, self._max_bytes, has_known_size=is_sized)
            self._started[download.future] = item, download
            waiting += item.size

    def _look_for_progress(self) -> None:
        received = sum(download.received for _, download in self._started.values())
        if received != self._received:
            self._on_progress()
        self._received = received
