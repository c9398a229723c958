"""Whether files can be written in a folder: its disk may be full, or mounted read-only."""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOW_BYTES = 5_000_000  # a disk with less free space than this counts as full
LEAST_BYTES = 100_000  # with less than this nothing goes on; a commit that finds no space leaves less
LOOK_SECONDS = 5.0  # between two looks of a DiskWatch


def shortage(folder: Path, least_bytes: int = LOW_BYTES) -> str:
    """Return that the disk of an existing folder is full or read-only, and what to do; empty when it is neither."""
    state = os.statvfs(folder)
    if state.f_flag & os.ST_RDONLY:
        return _text(folder, errno.EROFS)
    is_short = state.f_blocks > 0 and state.f_bavail * state.f_frsize < least_bytes  # some say 0 of 0
    if is_short or (state.f_files > 0 and state.f_favail == 0):
        return _text(folder, errno.ENOSPC)
    return ""


def write_error(folder: Path, least_bytes: int = LOW_BYTES) -> str:
    """Return why files cannot be written in an existing folder, and what to do; empty when they can.

    Writes a small file and deletes it, because a quota, a missing right and a failing disk show in no number.
    """
    return shortage(folder, least_bytes) or _probe(folder)


def _probe(folder: Path) -> str:
    try:
        with tempfile.NamedTemporaryFile(prefix=".captionmill-", dir=folder, buffering=0) as file:
            file.write(bytes(4096))
            os.fsync(file.fileno())
    except OSError as error:
        return _text(folder, error.errno or 0)
    return ""


def _text(folder: Path, code: int) -> str:
    if code == errno.EROFS:
        return f"the disk of {folder} is read-only: mount it for writing"
    if code == errno.ENOSPC:
        return f"the disk of {folder} is full: free some space"
    if code == errno.EDQUOT:
        return f"your quota on the disk of {folder} is used up: free some space"
    if code in (errno.EACCES, errno.EPERM):
        return f"no permission to write to {folder}: let this user write there"
    return f"cannot write to {folder} ({os.strerror(code)}): check its disk"


class DiskWatch:
    """Knows for how long nothing could be written in some folders. Looks every few seconds."""

    def __init__(self, folders: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._folders = folders
        self._clock = clock
        self._looked_at = float("-inf")
        self._since = float("-inf")
        self._error = ""

    def error_for(self, seconds: float) -> str:
        """Return the error if every look in the last so many seconds found one; empty otherwise."""
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS:
            before, self._looked_at = self._error, now
            found = (write_error(folder, LEAST_BYTES) for folder in self._folders if folder.is_dir())
            self._error = next(filter(None, found), "")
            if not before:
                self._since = now
        return self._error if now - self._since >= seconds else ""
