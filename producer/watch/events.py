"""Where changes come from: the kernel tells them for local disks; for others, folders are walked again and again."""

import errno
import os
from collections.abc import Iterator, Sequence
from threading import Event

import psutil

TICK_SECONDS = 0.5  # between two looks for changes
_NETWORK = ("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "9p", "ceph", "glusterfs", "lustre", "afpfs",
            "webdav", "davfs", "virtiofs", "vboxsf", "prl_fs")  # fmt: skip
"""Types of file systems on which another machine may change files, which this kernel does not notice."""


def why_polled(folders: Sequence[bytes]) -> str:
    """Return why the kernel cannot tell all changes in some folders; empty if it can."""
    for folder in folders:
        form = _type_of(os.fsdecode(folder))
        if form.startswith("fuse") or form in _NETWORK:
            return f"{os.fsdecode(folder)} is on a file system ({form}), and this machine may not notice its changes"
    return ""


def _type_of(folder: str) -> str:
    """Return the type of the file system of a folder; empty if it is not known."""
    mounts = [m for m in psutil.disk_partitions(all=True) if _is_in(folder, m.mountpoint)]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else ""


def _is_in(folder: str, mount_point: str) -> bool:
    return folder == mount_point or folder.startswith(mount_point.rstrip("/") + "/")


def kernel_changes(folders: Sequence[bytes], stopped: Event) -> Iterator[set[bytes]]:
    """Yield the paths that have changed, every TICK_SECONDS; an empty set when none has.

    Raises OSError when a folder is gone, or the kernel watches no more folders for this user.
    """
    from watchfiles import watch

    names = [os.fsdecode(folder) for folder in folders]
    tick = int(1000 * TICK_SECONDS)
    changes = watch(
        *names,
        watch_filter=None,
        stop_event=stopped,
        debounce=tick,
        rust_timeout=tick,
        yield_on_timeout=True,
        raise_interrupt=False,
        force_polling=False,
        ignore_permission_denied=True,
    )
    try:
        for changed in changes:
            yield {os.fsencode(path) for _, path in changed}
    except RuntimeError as error:  # what is no error of a file, such as a limit of the kernel
        raise OSError(errno.ENOSPC, str(error)) from error


def no_changes(stopped: Event) -> Iterator[set[bytes]]:
    """Yield an empty set every TICK_SECONDS: the folders are polled."""
    while not stopped.wait(TICK_SECONDS):
        yield set()
