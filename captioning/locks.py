"""What this machine must have for embedded mode and SQLite: files that can be locked, and semaphores."""

import errno
import fcntl
import os
import tempfile
from pathlib import Path

from captioning.errors import CaptioningError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def require_locks(folder: Path) -> None:
    """Raise CaptioningError when files in a folder cannot be locked, as on NFS without its lock daemon.

    SQLite would wait half a minute and then report "database is locked", which sends people looking for another
    program. A folder in which no file can be created is passed over: what needs to write there reports that.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=".captionmill-", dir=folder)
    except OSError:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # SQLite's
        fcntl.lockf(descriptor, fcntl.LOCK_UN)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the supervisor's
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise CaptioningError(
                f"the file system of {folder} has no locks ({error.strerror}), like some network drives: set"
                " CAPTIONING_DATA_DIR (or CAPTIONING_DATABASE_URL) to a folder on a local disk."
            ) from None
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def require_semaphores() -> None:
    """Raise CaptioningError when no semaphore can be created, of which a worker's pool needs some."""
    import multiprocessing  # few processes need it

    try:
        multiprocessing.Lock()
    except (OSError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CaptioningError(
            f"a worker cannot create semaphores in the shared memory of this machine, /dev/shm ({reason}): mount a"
            " writable tmpfs there, in a container with --tmpfs /dev/shm."
        ) from None
