"""Files and folders that appear complete or not at all: write beside the target, then rename.

A process that dies while it writes leaves the old file as it was. Two processes may write the same target at once: the
last one wins with a complete file. A temporary file is locked while it is written, so that what killed writers left can
be distinguished from what is in use.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = ".captionmill-"  # of the temporary names


@contextmanager
def replacing(path: Path, *, mode: int | None = None, sync: bool = True) -> Iterator[Path]:
    """Yield a new empty file beside `path`; when the block ends without an exception it replaces `path`.

    The file gets the permissions `mode`, else those of the file that it replaces, else those of any new file. Without
    `sync`, for what can be made again, the file may be empty after a power failure. Raises OSError when the folder
    cannot be written to.
    """
    if mode is None and path.exists():
        mode = path.stat().st_mode & 0o777
    # The kernel applies the umask. Python can read it only by changing it, which other threads would notice.
    unfinished, descriptor = _create_locked(path.parent, 0o666 if mode is None else 0o600)
    permissions = os.fstat(descriptor).st_mode & 0o777 if mode is None else mode
    try:
        yield unfinished
        if sync:
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
        unfinished.chmod(permissions)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
        os.close(descriptor)


def _create_locked(folder: Path, permissions: int) -> tuple[Path, int]:
    """Create a temporary file and lock it. Return its path and its descriptor."""
    while True:
        path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, permissions)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # else `remove_unfinished` was faster than the lock
            return path, descriptor
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`, which becomes `path` at the end unless another process made it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, descriptor = _create_locked_folder(path.parent)
    try:
        yield unfinished
        try:
            unfinished.replace(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(descriptor)


def _create_locked_folder(parent: Path) -> tuple[Path, int]:
    """Create a temporary folder and lock it. Return its path and its descriptor."""
    while True:
        path = Path(tempfile.mkdtemp(dir=parent, prefix=TEMPORARY_PREFIX))
        with contextlib.suppress(FileNotFoundError):  # `remove_unfinished` was faster than the lock
            descriptor = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files and folders that killed writers left in a folder, not those that are in use."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError while a process writes it
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)
