"""Reads members of archives. Keeps the last ones open: the chunks of a tar file come in the order of its members."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from captioning.archives import Archive, ArchiveLimits, open_archive
from captioning.errors import ImageError
from captioning.store.claims import ClaimedItem
from captioning.values import Reason
from worker.reader import FileBytes, use_file

MAX_OPEN = 2  # archives; the directory of a large zip file takes hundreds of megabytes
_State = tuple[int, int, int, int, int]  # device, inode, size, times


class ArchiveReader:
    """Reads members; one archive is opened once, and a tar file is passed through once, in whatever chunks."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._open: OrderedDict[_State, Archive] = OrderedDict()

    def read(
        self,
        root: bytes,
        archive: bytes,
        name: bytes,
        item: ClaimedItem,
        max_bytes: int,
        on_progress: Callable[[], object],
    ) -> FileBytes:
        """Read a member of an archive below a root. Raises what `worker.reader.read_file` raises, for the archive."""

        def use(descriptor: int) -> FileBytes:
            data = self._archive(descriptor, item).read(name, max_bytes, on_progress)
            return FileBytes(data, hashlib.sha256(data).hexdigest())

        return use_file(root, replace(item, path=archive), use)

    def close(self) -> None:
        """Close the archives."""
        while self._open:
            self._open.popitem()[1].close()

    def _archive(self, descriptor: int, item: ClaimedItem) -> Archive:
        """Return the archive in an open file, opened earlier if it is still the same."""
        status = os.fstat(descriptor)
        if status.st_mtime_ns != item.mtime_ns:
            raise ImageError(Reason.CHANGED, "the archive was modified after its members were listed: submit it again")
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if state not in self._open:
            while len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[state] = open_archive(os.fdopen(os.dup(descriptor), "rb"), self._limits)
        self._open.move_to_end(state)
        return self._open[state]
