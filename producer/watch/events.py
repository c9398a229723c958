"""Changes as the system reports them, and why it cannot."""

import os
from typing import TYPE_CHECKING

from captioning.mounts import mounts_of

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

MANY = 10_000  # changes at once, after which the kernel may have dropped others
_BURST_MS, _STEP_MS = 200, 50  # how long an answer collects events, and the pause after which it is complete
_NETWORK = ("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afpfs", "webdav", "davfs", "ncpfs", "9p", "afs",
            "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs", "ocfs2", "gfs2", "virtiofs", "vboxsf",
            "vmhgfs", "prl_fs", "drvfs")  # fmt: skip
"""Types of file systems on which another machine may change files, which this kernel does not notice."""


class Reports:
    """What the system reports about a folder and all below it. Raises OSError with the reason when it cannot."""

    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self._watcher = _open(folder)

    def read(self, seconds: float) -> set[bytes] | None:
        """Wait for changes; return their paths. None: some are not reported, so open the reports again, and walk."""
        try:
            reported = self._watcher.watch(_BURST_MS, _STEP_MS, max(1, int(1000 * seconds)), None)
        except RuntimeError:  # a name that is not UTF-8, for example
            return None
        if reported == "signal":
            raise KeyboardInterrupt
        paths = {os.fsencode(path) for _, path in reported} if isinstance(reported, set) else set()
        return paths if self._covers(paths) else None

    def _covers(self, paths: set[bytes]) -> bool:
        """Return whether one more folder could be watched, if there are folders among the paths.

        Where the kernel's limit is reached, what happens in new folders is not reported, and nor is that.
        """
        try:
            if any(map(os.path.isdir, paths)):
                _open(self._folder, recursive=False).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Stop watching."""
        self._watcher.close()


def _open(folder: bytes, *, recursive: bool = True) -> "RustNotify":
    """Begin to watch. Raises OSError with the reason when that is not possible."""
    # watchfiles documents this class. Its `watch` tells no errors apart, and ends at a name that is not UTF-8.
    from watchfiles._rust_notify import RustNotify

    try:
        # ignore_permission_denied would also ignore that there are too many folders
        return RustNotify(
            [os.fsdecode(folder)],
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=recursive,
            ignore_permission_denied=False,
        )
    except (OSError, RuntimeError, UnicodeError) as error:
        raise OSError(0, _explained(error)) from error


def _explained(error: Exception) -> str:
    if "watch limit" in str(error):
        return (
            "it has more folders than this user may watch;"
            " `sysctl fs.inotify.max_user_watches=1048576` raises the limit, then start this again"
        )
    if "os error 24" in str(error):
        return (
            "this user has too many watches; `sysctl fs.inotify.max_user_instances=1024` raises the limit,"
            " then start this again"
        )
    if isinstance(error, UnicodeError):
        return "its name is not UTF-8"
    if isinstance(error, PermissionError):
        return "a folder in it may not be read"
    return f"its changes cannot be watched ({error})"


def why_unreported(folder: bytes) -> str:
    """Return why the system does not report all changes in a folder, as far as mounts tell; empty if it does."""
    kinds = sorted({kind for _, _, kind in mounts_of(folder) if is_network(kind)})
    return f"it is on, or contains, a file system ({kinds[0]}) that other machines may change" if kinds else ""


def is_network(kind: str) -> bool:
    """Return whether other machines, or programs, change files of such a file system without a report here."""
    return kind.lower() in _NETWORK or kind == "fuse" or kind.startswith("fuse.")
