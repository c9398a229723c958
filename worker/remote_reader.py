"""Reads the remote files of a chunk, several at the same time, because each takes long to answer."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from captioning.remote import Download, RemoteStore
from captioning.store.leases import ClaimedItem
from worker.reader import FileBytes

WAITING_BYTES = 128_000_000  # of files that are being fetched or wait for their turn, where their sizes are known


class RemoteReader:
    """Fetches files in the order of the chunk, `ahead` of them at once; each is read with one request."""

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
        self._started: deque[tuple[ClaimedItem, Download]] = deque()

    def __enter__(self) -> "RemoteReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, download in self._started:
            download.cancel()

    def read(self, item: ClaimedItem) -> FileBytes:
        """Return the next item of the chunk, which must be this one. Raises ImageError."""
        self._start_more()
        started, download = self._started.popleft()
        assert started is item, "files are read in the order of the chunk"
        data = download.result(self._on_progress)
        return FileBytes(data, hashlib.sha256(data).hexdigest())

    def _start_more(self) -> None:
        waiting = sum(item.size for item, _ in self._started)
        while len(self._started) < self._ahead and (waiting < WAITING_BYTES or not self._started):
            item = next(self._left, None)
            if item is None:
                return
            url = self._root + b"/" + item.path
            self._started.append((item, self._remote.start(url, self._max_bytes)))
            waiting += item.size
