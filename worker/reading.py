"""A picture's bytes off the disk: once, whole, from below its root, and the same from first to last byte."""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from captioning.errors import ImageError, RootUnavailable, ServiceTrouble
from captioning.paths import is_below
from captioning.store.claims import Work
from captioning.values import Reason


@dataclass(frozen=True)
class FileBytes:
    """What a file held when it was read."""

    data: bytes
    sha256: str


def is_visible(root: bytes) -> bool:
    """Tell whether a root is there with something in it: an unmounted folder is empty or gone."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def is_gone(root: bytes, path: bytes) -> bool:
    """Tell whether a file has gone together with everything around it, as when its folder was unmounted."""
    return not os.path.lexists(os.path.join(root, path)) and not is_visible(os.path.dirname(os.path.join(root, path)))


def read_file(root: bytes, work: Work, max_bytes: int) -> FileBytes:
    """Read a file below a root.

    Raises ImageError with reason missing, forbidden, too_large, changed or unreadable, RootUnavailable when it
    is the root, not the file, that is gone, and ServiceTrouble when this machine is short of something.
    """
    try:
        descriptor = _open_below(root, work.path)
        try:
            return _read(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        if not is_visible(root):
            raise RootUnavailable(f"the folder {os.fsdecode(root)!r} is empty or not there") from None
        raise ImageError(Reason.MISSING, "the file is not there any more") from None
    except PermissionError:
        raise ImageError(Reason.FORBIDDEN, "no permission to read the file") from None
    except OSError as trouble:
        if trouble.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise ServiceTrouble(f"reading a file fails: {trouble.strerror}") from trouble
        if not is_visible(root):  # else it is this file's own bad sector
            raise RootUnavailable(f"reading below {os.fsdecode(root)!r} fails: {trouble.strerror}") from trouble
        raise ImageError(Reason.UNREADABLE, trouble.strerror or str(trouble)) from None


def _open_below(root: bytes, path: bytes) -> int:
    """Open a regular file that really lies below the root, links followed; never wait on a pipe or a device."""
    home = os.path.realpath(root)
    real = os.path.realpath(os.path.join(home, path))
    if not is_below(real, home):
        raise ImageError(Reason.FORBIDDEN, "the path leads out of its root")
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(Reason.UNREADABLE, "not a regular file")
    return descriptor


def _read(descriptor: int, max_bytes: int) -> FileBytes:
    before = os.fstat(descriptor)
    if before.st_size > max_bytes:
        raise ImageError(Reason.TOO_LARGE, f"{before.st_size} bytes; the limit is {max_bytes} (CAPTIONING_MAX_BYTES)")
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read(max_bytes + 1)
    after = os.fstat(descriptor)
    if len(data) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError(Reason.CHANGED, "the file was written to while it was read")
    return FileBytes(data, hashlib.sha256(data).hexdigest())
