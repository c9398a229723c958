"""Files in folders of images: read and replaced without following a link, and never outside of a tree.

Every folder on the way is opened by its descriptor with O_NOFOLLOW, so that nobody can put a link in the place of a
folder between the check and the write. A file is replaced by a rename, which leaves the old one or the new one.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from captioning.atomic import TEMPORARY_PREFIX
from captioning.errors import FileLeft

MAX_BYTES = 8_000_000  # of a file that is read

# where the system can, a folder is opened without the right to list it
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Present:
    """A file as it was read."""

    data: bytes
    mode: int
    owner: tuple[int, int]  # user and group
    mtime_ns: int
    identity: tuple[int, int, int, int]  # device, inode, size, time of change

    @property
    def is_read_only(self) -> bool:
        return not self.mode & 0o222


class Tree:
    """A folder below which files are read and written. Keeps the last folder open, because files come by folder."""

    def __init__(self, root: bytes, *, create_folders: bool = False) -> None:
        """Open the root, an absolute path on which no folder may be a link; `write` creates folders if it should.

        Raises FileLeft and OSError when the root cannot be opened.
        """
        self._root = os.open(b"/", _FOLDER)
        parts = tuple(part for part in root.split(b"/") if part)
        found = self._descend(parts, create=False) if parts else self._root
        if found is None:
            os.close(self._root)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
        if found != self._root:
            os.close(self._root)
            self._root = found
        self._create_folders = create_folders
        self._open: tuple[tuple[bytes, ...], int] | None = None
        self._tidied: set[tuple[bytes, ...]] = set()  # folders without what killed exports left

    def close(self) -> None:
        self._leave()
        os.close(self._root)

    def read(self, path: bytes) -> Present | None:
        """Return a file at a path below the root; None if there is none. Raises FileLeft and OSError."""
        *folders, name = _parts(path)
        folder = self._enter(tuple(folders), create=False)
        if folder is None:
            return None
        try:
            descriptor = os.open(name, _READ, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _as_unsafe(error) from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise FileLeft("it is no regular file")
            if found.st_nlink > 1:
                raise FileLeft("it has a second name, a hard link, somewhere else")
            if found.st_size > MAX_BYTES:
                raise FileLeft(f"it has more than {MAX_BYTES} bytes")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        owner = (found.st_uid, found.st_gid)
        return Present(data, stat.S_IMODE(found.st_mode), owner, found.st_mtime_ns, _identity(found))

    def state(self, path: bytes) -> tuple[int, int] | None:
        """Return size and time of change of a regular file; None if there is none. Raises FileLeft and OSError."""
        *folders, name = _parts(path)
        folder = self._enter(tuple(folders), create=False)
        try:
            found = None if folder is None else os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        return None if found is None or not stat.S_ISREG(found.st_mode) else (found.st_size, found.st_mtime_ns)

    def has_folder(self, path: bytes) -> bool:
        """Return whether there is a folder at a path below the root. Raises FileLeft and OSError."""
        return self._enter(tuple(_parts(path)), create=False) is not None

    def write(self, path: bytes, data: bytes, before: Present | None, mtime_ns: int | None = None) -> None:
        """Write a file, in the place of `before`, with its owner and permissions; `mtime_ns`: with this time.

        Raises FileLeft when the file has changed since it was read, and OSError.
        """
        *folders, name = _parts(path)
        folder = self._enter(tuple(folders), create=self._create_folders)
        if folder is None:
            raise FileLeft("its folder is not there")
        if tuple(folders) not in self._tidied:
            self._tidied.add(tuple(folders))
            _remove_unfinished(folder)
        temporary = TEMPORARY_PREFIX.encode() + secrets.token_hex(8).encode()
        descriptor = os.open(temporary, _CREATE, 0o666, dir_fd=folder)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123, a descriptor
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                file.write(data)
                file.flush()
                if before is not None:  # what a person had must not become an empty file when the power fails
                    _take_over(descriptor, name, folder, before)
                    os.fsync(descriptor)
                if mtime_ns is not None:
                    os.utime(descriptor, ns=(mtime_ns, mtime_ns))
                self._require_unchanged(folder, name, before)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise

    def remove(self, path: bytes, before: Present) -> None:
        """Remove a file. Raises FileLeft when it has changed since it was read, and OSError."""
        *folders, name = _parts(path)
        folder = self._enter(tuple(folders), create=False)
        if folder is None:
            raise FileLeft("its folder is not there")
        self._require_unchanged(folder, name, before)
        os.unlink(name, dir_fd=folder)

    @staticmethod
    def _require_unchanged(folder: int, name: bytes, before: Present | None) -> None:
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        now = None if found is None else _identity(found)
        if now != (None if before is None else before.identity):
            raise FileLeft("somebody changed it at this moment")

    def _enter(self, folders: tuple[bytes, ...], *, create: bool) -> int | None:
        """Return the descriptor of a folder below the root; None if it does not exist. Raises FileLeft and OSError."""
        if self._open is not None and self._open[0] == folders:
            return self._open[1]
        self._leave()
        descriptor = self._descend(folders, create=create)
        if descriptor is not None:
            self._open = (folders, descriptor)
        return descriptor

    def _descend(self, folders: tuple[bytes, ...], *, create: bool) -> int | None:
        """Open a folder below the root; None if it does not exist. Raises FileLeft and OSError."""
        descriptor = os.dup(self._root)
        try:
            for name in folders:
                try:
                    inner = os.open(name, _FOLDER, dir_fd=descriptor)
                except FileNotFoundError:
                    if not create:
                        os.close(descriptor)
                        return None
                    os.mkdir(name, dir_fd=descriptor)
                    inner = os.open(name, _FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
        except OSError as error:
            os.close(descriptor)
            raise _as_unsafe(error) from error
        return descriptor

    def _leave(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


@contextmanager
def open_tree(root: bytes) -> Iterator[Tree]:
    """Open a tree for a while."""
    tree = Tree(root)
    try:
        yield tree
    finally:
        tree.close()


def _remove_unfinished(folder: int) -> None:
    """Delete the temporary files in a folder that killed processes left, not those that are in use."""
    with contextlib.suppress(OSError):
        listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            names = [name for name in os.listdir(listed) if name.startswith(TEMPORARY_PREFIX)]  # noqa: PTH208
        finally:
            os.close(listed)
        for name in names:
            descriptor = os.open(name, _READ, dir_fd=folder)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError while it is in use
                os.unlink(name, dir_fd=folder)
            finally:
                os.close(descriptor)


def _take_over(descriptor: int, name: bytes, folder: int, before: Present) -> None:
    """Give a new file the owner, the permissions and the attributes of the one that it will replace."""
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != before.owner:
        try:
            os.fchown(descriptor, *before.owner)
        except OSError:
            raise FileLeft("it belongs to another user or group, who would lose it") from None
    os.fchmod(descriptor, before.mode)
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            old = os.open(name, _READ, dir_fd=folder)
            try:
                for attribute in os.listxattr(old):
                    os.setxattr(descriptor, attribute, os.getxattr(old, attribute))
            finally:
                os.close(old)


def _parts(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    if not path or any(part in (b"", b".", b"..") for part in parts):
        raise FileLeft("its path does not stay inside its folder")
    return parts


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _as_unsafe(error: OSError) -> Exception:
    """Return what a refusal of O_NOFOLLOW means; other errors stay as they are."""
    if error.errno == errno.ELOOP:
        return FileLeft("it is a symbolic link")
    if error.errno == errno.ENOTDIR:
        return FileLeft("a folder of its path is a symbolic link, or no folder")
    return error
