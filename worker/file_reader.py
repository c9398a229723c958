"""Reads the files of a chunk, wherever they are: in folders, in archives, in buckets or on the web."""

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from captioning.archives import limits_of, member_path, split_member
from captioning.paths import is_url
from captioning.remote import Download, RemoteStore
from captioning.settings import Settings
from captioning.store.claims import ClaimedItem
from worker.archive_reader import ArchiveReader
from worker.disk_reader import DiskReader, Reads
from worker.reader import FileBytes, is_visible, read_file
from worker.remote_reader import RemoteReader


class FileReader:
    """One per pool process, for chunks on several threads.

    A chunk with members of archives, or with remote files, waits until no other such chunk is read: a packed tar file
    is passed through once, and no more files are fetched at the same time than settings allow.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.max_bytes
        self._connections = settings.remote_connections
        self._archives = ArchiveReader(limits_of(settings))
        self._disk = DiskReader()
        self._remote = RemoteStore(settings)
        self._turn = threading.Lock()

    @contextmanager
    def reading(self, root: bytes, items: Sequence[ClaimedItem], on_progress: Callable[[], object]) -> Iterator[Reads]:
        """Provide the items with functions that read them: in their order, or in that in which remote files arrive.

        `on_progress` is called while a read takes long and advances.
        """
        has_members = any(split_member(item.path) is not None for item in items)
        with self._turn if has_members or is_url(root) else nullcontext():
            if is_url(root):
                ahead = self._connections
                with RemoteReader(self._remote, root, items, self._max_bytes, ahead, on_progress) as reader:
                    yield ((item, functools.partial(_content_of, download)) for item, download in reader)
            else:
                read = functools.partial(self._read, root, on_progress)
                with self._disk.reading(items, read, lambda item: split_member(item.path) is None) as reads:
                    yield reads

    def _read(self, root: bytes, on_progress: Callable[[], object], item: ClaimedItem) -> FileBytes:
        member = split_member(item.path)
        if member is None or is_visible(root.rstrip(b"/") + b"/" + member_path(member[0])):
            return read_file(root, item, self._max_bytes)  # a folder may be called `a.zip!`
        return self._archives.read(root, *member, item, self._max_bytes, on_progress)

    def close(self) -> None:
        """Close what is kept open between chunks."""
        self._archives.close()
        self._disk.close()


def _content_of(download: Download) -> FileBytes:
    data = download.result()
    return FileBytes(data, hashlib.sha256(data).hexdigest())
