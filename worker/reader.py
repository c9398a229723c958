"""An image's bytes off the disk: once, whole, from below its root, and the same from first to last byte."""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from captioning.errors import FileUnreachable, ImageError, RootUnavailable, ServiceUnavailable
from captioning.paths import is_below
from captioning.store.leases import ClaimedItem
from captioning.values import Reason

_OUT_OF_REACH = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)
_NO_WAY = "a link on its way can't be followed"
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC  # a folder may be passed through unread


@dataclass(frozen=True)
class FileBytes:
    """What a file held when it was read."""

    data: bytes
    sha256: str


def is_visible(root: bytes) -> bool:
    """Tell whether a root is there with something in it: an unmounted folder is empty or gone."""
    return _holds_something(root, unlisted=False)


def read_file(root: bytes, item: ClaimedItem, max_bytes: int) -> FileBytes:
    """Read a file below a root.

    Raises ImageError with reason missing, forbidden, too_large, changed or unreadable, FileUnreachable when it is the
    folder, not the file, that is gone, RootUnavailable when it is the root, and ServiceUnavailable when this machine is
    short of something.
    """
    try:
        descriptor = _open_below(root, item.path)
        try:
            return _read(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        if not is_visible(root):
            raise RootUnavailable(f"the folder {os.fsdecode(root)!r} is empty or not there") from None
        raise _missing(root, item) from None
    except ValueError:  # a NUL, which no file's name can have
        raise ImageError(Reason.MISSING, "no file can have this name") from None
    except PermissionError:
        folder = os.path.dirname(os.path.join(root, item.path))
        if not item.was_missed and not os.access(folder, os.X_OK):  # a mount point without its disk may be locked
            said = f"no permission to enter the folder {os.fsdecode(folder)!r}"
            raise FileUnreachable(Reason.FORBIDDEN, said) from None
        raise ImageError(Reason.FORBIDDEN, "no permission to read the file") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise ServiceUnavailable(f"reading a file fails: {error.strerror}") from error
        if not is_visible(root):  # else it is this file's own bad sector
            raise RootUnavailable(f"reading below {os.fsdecode(root)!r} fails: {error.strerror}") from error
        if error.errno in _OUT_OF_REACH:
            raise FileUnreachable(Reason.UNREADABLE, f"{error.strerror}: is its disk still there?") from error
        raise ImageError(Reason.UNREADABLE, error.strerror or str(error)) from None


def _missing(root: bytes, item: ClaimedItem) -> ImageError:
    """Return what is said of a file that isn't there, by what else isn't. What a walk missed too is gone for good."""
    path = os.path.join(root, item.path)
    folder = os.path.dirname(path)
    if os.path.exists(path):
        return FileUnreachable(Reason.MISSING, "the file was not there for a moment")
    if not item.was_missed and not _holds_something(folder, unlisted=True):
        there = folder
        while not os.path.isdir(there) and is_below(there, root):
            there = os.path.dirname(there)
        moved = there != folder and is_visible(there)
        said = f"the folder {os.fsdecode(folder if moved else there)!r} is {'gone' if moved else 'empty'}"
        return FileUnreachable(Reason.MISSING, said, folder_gone=moved)
    return ImageError(Reason.MISSING, "the file is not there any more")


def _holds_something(folder: bytes, *, unlisted: bool) -> bool:
    """Tell whether there is anything in a folder; `unlisted` is said of one that we may not list."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except PermissionError:
        return unlisted
    except OSError:
        return False


def _open_below(root: bytes, path: bytes) -> int:
    """Open a regular file that really lies below the root, links followed; never wait on a pipe or a device.

    Where links lead is found out first, and then the way is gone again from the root's folder down, one name
    at a time and following none: what becomes a link in between leads nowhere.
    """
    home = os.path.realpath(root)
    try:
        real = os.path.realpath(os.path.join(home, path))
    except OSError as error:  # what was a link when it was looked at is none when it is read
        raise ImageError(Reason.FORBIDDEN, _NO_WAY) from error
    if not is_below(real, home):
        raise ImageError(Reason.FORBIDDEN, "the path leads out of its root")
    *folders, name = os.path.relpath(real, home).split(b"/")
    place = os.open(home, _FOLDER)
    try:
        for folder in folders:
            deeper = _open_in(place, folder, _FOLDER | os.O_NOFOLLOW)
            os.close(place)
            place = deeper
        descriptor = _open_in(place, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(place)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(Reason.UNREADABLE, "not a regular file")
    return descriptor


def _open_in(place: int, name: bytes, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=place)
    except OSError as error:  # of a link: ELOOP, or ENOTDIR where a folder is wanted, or others on other systems
        was_link = error.errno == errno.ELOOP  # whatever it is by now
        if was_link or stat.S_ISLNK(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            raise ImageError(Reason.FORBIDDEN, _NO_WAY) from error
        raise


def _read(descriptor: int, max_bytes: int) -> FileBytes:
    before = os.fstat(descriptor)
    if before.st_size > max_bytes:
        raise ImageError(Reason.TOO_LARGE, f"{before.st_size} bytes; the limit is {max_bytes} (CAPTIONING_MAX_BYTES)")
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read(before.st_size + 1)
    after = os.fstat(descriptor)
    if len(data) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError(Reason.CHANGED, "the file was written to while it was read")
    return FileBytes(data, hashlib.sha256(data).hexdigest())
