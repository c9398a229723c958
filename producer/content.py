"""The bytes of files that the store knows, wherever they are: in folders, in archives, in buckets or on the web."""

import errno
import hashlib
import os
import stat
import threading
from types import TracebackType

from captioning.archives import Archive, limits_of, open_archive_at, split_member
from captioning.errors import ImageError
from captioning.paths import is_url
from captioning.remote import RemoteStore
from captioning.settings import Settings


class ContentReader:
    """Reads files by their absolute paths, on any thread. Keeps the last archive open: members come in their order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._remote = RemoteStore(settings)
        self._archive: tuple[bytes, Archive] | None = None
        self._lock = threading.Lock()  # of the archive

    def __enter__(self) -> "ContentReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close_archive()

    def read(self, path: bytes) -> bytes:
        """Return the content of a file. Raises OSError and ImageError."""
        if is_url(path):
            return self._remote.read(path, self._settings.max_bytes)
        member = split_member(path)
        if member is None or os.path.lexists(path):
            return _read_file(path)
        with self._lock:
            return self._open(member[0]).read(member[1], self._settings.max_bytes, lambda: None)

    def sha256(self, path: bytes) -> str:
        """Return the digest of the content, in hex. Raises OSError and ImageError."""
        if split_member(path) is None and not is_url(path):
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(self.read(path)).hexdigest()

    def readable(self, path: bytes) -> bytes | None:
        """Return the content of a file; None if it cannot be read."""
        try:
            return self.read(path)
        except (OSError, ImageError):
            return None

    def _open(self, path: bytes) -> Archive:
        if self._archive is None or self._archive[0] != path:
            self._close_archive()
            self._archive = path, open_archive_at(path, limits_of(self._settings))
        return self._archive[1]

    def _close_archive(self) -> None:
        if self._archive is not None:
            self._archive[1].close()
            self._archive = None


def _read_file(path: bytes) -> bytes:
    """Return the content of a regular file; never wait for a pipe. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read()
