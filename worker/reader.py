"""Reads an image file: once, completely, only below its root, and unchanged from the first byte to the last."""

import errno
import functools
import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from captioning.errors import FileUnreachable, ImageError, RootUnavailable, ServiceUnavailable
from captioning.paths import is_below, is_url
from captioning.remote import is_installed
from captioning.store.claims import ClaimedItem
from captioning.values import Reason

_OUT_OF_REACH = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_BAD_LINK = "the path contains a link that cannot be followed"
_NO_NAMES = frozenset((b"", b".", b".."))
T = TypeVar("T")
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC  # O_PATH needs no permission to list


@dataclass(frozen=True)
class FileBytes:
    """The content of a file."""

    data: bytes
    sha256: str


def is_visible(root: bytes) -> bool:
    """Return whether a root exists and contains something. The mount point of an unmounted disk is empty or gone.

    A bucket or a server is visible where the packages for it are installed.
    """
    if is_url(root):
        return is_installed(root)
    return _has_entries(root, if_forbidden=False)


def read_file(root: bytes, item: ClaimedItem, max_bytes: int) -> FileBytes:
    """Read a file below a root. Raises what `use_file` raises, and ImageError with reason too_large or changed."""
    return use_file(root, item, lambda descriptor: _read(descriptor, max_bytes))


def use_file(root: bytes, item: ClaimedItem, use: Callable[[int], T]) -> T:
    """Open a file below a root, call `use` with its descriptor, and close it.

    Raises ImageError with reason missing, forbidden or unreadable; FileUnreachable when the folder is gone, not just
    the file; RootUnavailable when the root is; ServiceUnavailable when this machine is short of memory or file handles.
    """
    try:
        descriptor = _open_below(root, item.path)
        try:
            return use(descriptor)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        if not is_visible(root):
            raise RootUnavailable(f"the folder {os.fsdecode(root)!r} is empty or does not exist") from None
        raise _missing(root, item) from None
    except ValueError:  # a NUL character
        raise ImageError(Reason.MISSING, "no file can have this name") from None
    except PermissionError:
        raise _forbidden(root, item) from None
    except OSError as error:
        raise _unreadable(root, error) from error


def _missing(root: bytes, item: ClaimedItem) -> ImageError:
    """Return the error for a file that does not exist; FileUnreachable when its folder is empty or gone too.

    A file that a later walk of its folder did not find either (`was_missed`) has been deleted.
    """
    path = os.path.join(root, item.path)
    folder = os.path.dirname(path)
    if os.path.exists(path):
        return FileUnreachable(Reason.MISSING, "the file did not exist for a moment")
    if item.was_missed or _has_entries(folder, if_forbidden=True):
        return ImageError(Reason.MISSING, "the file does not exist any more")
    existing = folder
    while not os.path.isdir(existing) and is_below(existing, root):
        existing = os.path.dirname(existing)
    folder_gone = existing != folder and is_visible(existing)
    message = f"the folder {os.fsdecode(folder if folder_gone else existing)!r} is {'gone' if folder_gone else 'empty'}"
    return FileUnreachable(Reason.MISSING, message, folder_gone=folder_gone)


def _forbidden(root: bytes, item: ClaimedItem) -> ImageError:
    folder = os.path.dirname(os.path.join(root, item.path))
    if not item.was_missed and not os.access(folder, os.X_OK):  # the mount point of an unmounted disk may be locked
        return FileUnreachable(Reason.FORBIDDEN, f"no permission to enter the folder {os.fsdecode(folder)!r}")
    return ImageError(Reason.FORBIDDEN, "no permission to read the file")


def _unreadable(root: bytes, error: OSError) -> ServiceUnavailable | ImageError:
    if error.errno in _OUT_OF_RESOURCES:
        return ServiceUnavailable(f"reading a file fails: {error.strerror}")
    if not is_visible(root):
        return RootUnavailable(f"reading below {os.fsdecode(root)!r} fails: {error.strerror}")
    if error.errno in _OUT_OF_REACH:
        return FileUnreachable(Reason.UNREADABLE, f"{error.strerror} (is its disk connected?)")
    return ImageError(Reason.UNREADABLE, error.strerror or str(error))


def _has_entries(folder: bytes, *, if_forbidden: bool) -> bool:
    """Return whether a folder contains anything; `if_forbidden` when listing it is not permitted."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except PermissionError:
        return if_forbidden
    except OSError:
        return False


def _open_below(root: bytes, path: bytes) -> int:
    """Open a regular file that is below the root after links are followed; never wait for a pipe or a device.

    A path is opened from the root down, one name at a time, without following links. If there are any, they are
    resolved, and the real path is opened in the same way: what has become a link in the meantime cannot lead elsewhere.
    """
    real_root, names = _real(root, int(time.monotonic())), path.split(b"/")
    if not _NO_NAMES.intersection(names):
        try:
            return _open_names(real_root, names)
        except ImageError as error:
            if error.reason != Reason.FORBIDDEN:
                raise
    try:
        real = os.path.realpath(os.path.join(real_root, path))
    except OSError as error:  # what was a link when the system looked at it is not a link when it is read
        raise ImageError(Reason.FORBIDDEN, _BAD_LINK) from error
    if not is_below(real, real_root):
        raise ImageError(Reason.FORBIDDEN, "the path leads out of its root")
    return _open_names(real_root, os.path.relpath(real, real_root).split(b"/"))


@functools.lru_cache(maxsize=64)
def _real(root: bytes, _second: int) -> bytes:
    """Return the real path of a root. It is looked up once a second, not for each file."""
    return os.path.realpath(root)


def _open_names(folder: bytes, names: list[bytes]) -> int:
    """Open a regular file by the names of its folders and its own. Raises ImageError, forbidden if one is a link."""
    *folders, name = names
    current = os.open(folder, _FOLDER)
    try:
        for deeper_name in folders:
            deeper = _open_in(current, deeper_name, _FOLDER | os.O_NOFOLLOW)
            os.close(current)
            current = deeper
        descriptor = _open_in(current, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(current)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(Reason.UNREADABLE, "not a regular file")
    return descriptor


def _open_in(folder: int, name: bytes, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:  # for a link: ELOOP, or ENOTDIR where a folder is expected, or others on other systems
        was_link = error.errno == errno.ELOOP  # even if it is not a link any more
        if was_link or stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise ImageError(Reason.FORBIDDEN, _BAD_LINK) from error
        raise


def _read(descriptor: int, max_bytes: int) -> FileBytes:
    before = os.fstat(descriptor)
    if before.st_size > max_bytes:
        message = f"{before.st_size} bytes; the limit is {max_bytes} (CAPTIONING_MAX_BYTES)"
        raise ImageError(Reason.TOO_LARGE, message)
    data = _read_up_to(descriptor, before.st_size + 1)
    after = os.fstat(descriptor)
    if len(data) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError(Reason.CHANGED, "the file was modified while it was read")
    return FileBytes(data, hashlib.sha256(data).hexdigest())


def _read_up_to(descriptor: int, count: int) -> bytes:
    """Return the next bytes of a file, all that are left if they are fewer."""
    data = os.read(descriptor, count)  # nearly always all: each more call costs the worker time
    while len(data) < count and (more := os.read(descriptor, count - len(data))):
        data += more
    return data
