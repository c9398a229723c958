"""Files and folders that appear complete or not at all: write beside the target, then rename.

A process that dies while it writes leaves the old file as it was. Two processes may write the same target at once: the
last one wins with a complete file.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """Yield a new empty file beside `path`; when the block ends without an exception it replaces `path`.

    The file gets the permissions `mode`, else those of the file that it replaces, else those of any new file. Raises
    OSError when the folder cannot be written to.
    """
    permissions = mode if mode is not None else _permissions(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".captionmill-")
    os.close(descriptor)
    unfinished = Path(name)
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.chmod(permissions)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`, which becomes `path` at the end unless another process made it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=".captionmill-"))
    try:
        yield unfinished
        try:
            unfinished.replace(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _permissions(path: Path) -> int:
    """Return the permissions of a file, or those that a new file gets."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
