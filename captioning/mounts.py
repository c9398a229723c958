"""On which mount a file lies: what tells a deleted file from the file of a disk that is not mounted now.

A mount is identified by its source (the UUID of a disk where that is known), type, root and mount point, not by its
device number, which a restart of the system changes. The mount point is part of it, because two file systems without a
device (tmpfs, for example) can have the same source, type and root.
"""

import contextlib
import os
import re
import select
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

from captioning.paths import is_below

_MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mounts:
    """The mounts of this process. What is mounted later is seen too."""

    def __init__(self) -> None:
        self._by_id: dict[int, str] = {}
        self._points: frozenset[bytes] = frozenset()
        self._changes: select.poll | None = None

    def of(self, path: bytes) -> str | None:
        """Return the identity of the mount on which an existing file or folder lies. None when that is not known.

        Raises OSError when there is nothing at the path, or when it cannot be looked at.
        """
        return self._linux(path) if sys.platform == "linux" else _by_longest_path(path)

    def of_file(self, path: bytes, of_folder: str | None) -> str | None:
        """Return the same for a file in a folder whose mount is known: a single file may be a mount point too."""
        if path not in self._points:
            return of_folder
        with contextlib.suppress(OSError):
            return self.of(path)
        return None

    def of_nearest(self, path: bytes) -> str | None:
        """Return the mount of a path or, when there is nothing, of the nearest folder above it that exists.

        None when that is not known, for example because a folder may not be entered.
        """
        while True:
            try:
                return self.of(path)
            except (FileNotFoundError, NotADirectoryError):
                if path == os.path.dirname(path):
                    return None
                path = os.path.dirname(path)
            except (OSError, ValueError):
                return None

    def _linux(self, path: bytes) -> str | None:
        """Ask the kernel for the number of the mount: a mount over another one hides what lies below it."""
        descriptor = _open(path)
        try:
            number = _mount_number(descriptor)
        finally:
            os.close(descriptor)
        if number is None:
            return None
        self._read_mountinfo_if_changed()
        return self._by_id.get(number)

    def _read_mountinfo_if_changed(self) -> None:
        """Read the table of mounts again after a change: the number of a mount is given to later ones."""
        if self._changes is None:
            watched = os.open(_MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, watched)
            self._changes = select.poll()
            self._changes.register(watched, select.POLLPRI | select.POLLERR)  # proc(5)
        elif not self._changes.poll(0):
            return
        uuids = _uuids()
        mounts = [_parse(line, uuids) for line in _MOUNTINFO.read_bytes().splitlines()]
        self._by_id = {number: identity for number, identity, _ in mounts}
        self._points = frozenset(point for _, _, point in mounts)


def _open(path: bytes) -> int:
    """Open a path without the right to read it. A folder that is mounted on demand is mounted first."""
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _uuids() -> dict[bytes, bytes]:
    """Return the UUIDs of file systems by their devices: two cards in one reader have the same device."""
    folder = b"/dev/disk/by-uuid"
    with contextlib.suppress(OSError):
        return {os.path.realpath(os.path.join(folder, uuid)): b"UUID=" + uuid for uuid in os.listdir(folder)}
    return {}


def _mount_number(descriptor: int) -> int | None:
    """Return the number of an open file's mount; None where /proc is not mounted."""
    try:
        with Path(f"/proc/self/fdinfo/{descriptor}").open("rb") as info:
            return next((int(line[7:]) for line in info if line.startswith(b"mnt_id:")), None)
    except FileNotFoundError:
        return None


def _parse(line: bytes, uuids: Mapping[bytes, bytes]) -> tuple[int, str, bytes]:
    """Return number, identity and mount point of one line of mountinfo.

    `36 35 98:0 /root /point options optional... - type source options`: the optional fields end at the hyphen.
    """
    before, _, after = line.partition(b" - ")
    number, _, _, root, point, *_ = before.split(b" ")
    kind, source, *_ = after.split(b" ")
    return int(number), _identity(uuids.get(source, source), kind, root, point), _unescaped(point)


def _identity(*parts: bytes) -> str:
    return " ".join(part.decode("utf-8", "backslashreplace") for part in parts)


def _escaped(field: bytes) -> bytes:
    """Write blanks and backslashes as mountinfo does: identities are split at blanks."""
    return field.replace(b"\\", rb"\134").replace(b" ", rb"\040")


def _unescaped(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)


def _by_longest_path(path: bytes) -> str | None:
    """Find the mount by the longest mount point above the path, on systems without mountinfo."""
    import psutil  # few processes need it

    os.stat(path)
    best: tuple[int, str] | None = None
    for mount in psutil.disk_partitions(all=True):
        point = os.fsencode(mount.mountpoint)
        if path == point or path.startswith(point.rstrip(b"/") + b"/"):
            identity = _identity(os.fsencode(mount.device), mount.fstype.encode(), b"/", _escaped(point))
            best = max(best, (len(point), identity)) if best else (len(point), identity)
    return best[1] if best else None


def mounts_of(folder: bytes) -> frozenset[tuple[bytes, str, str]]:
    """Return mount point, device and type of the file systems of a folder and of what is mounted below it."""
    import psutil

    mounts = [(os.fsencode(m.mountpoint), m.device, m.fstype) for m in psutil.disk_partitions(all=True)]
    own = max((point for point, *_ in mounts if is_below(folder, point)), key=len, default=b"/")
    by_point = {mount[0]: mount for mount in mounts}  # the last of several at one point hides the others
    return frozenset(mount for point, mount in by_point.items() if point == own or is_below(point, folder))


def mount_point_of(identity: str) -> str:
    """Return the mount point in an identity, for people."""
    return _unescaped(identity.rpartition(" ")[2].encode()).decode("utf-8", "backslashreplace")
