"""Every exception that captionmill defines, as a tree. A test compares this drawing with the code.

CaptioningError                    one line for the person, with a remedy; the command exits 1
├── UsageError                     the person's input is at fault; the command exits 2
│   ├── PathsGone                  paths that the person named do not exist; the store may know files there
│   ├── CaptionChanged             somebody changed the caption since the person saw it; nothing was written
│   └── UrlRefused                 a URL has a secret, another scheme, or a form that cannot be stored
├── ImageError                     one image is at fault: recorded on its row, not retried by itself
│   ├── ArchiveError               the archive that it is in is damaged, or larger than the limits
│   ├── AddressRefused             its URL leads to where nothing is read from
│   └── FileUnreachable            the file and everything around it is gone; it may come back
├── BundleError                    a model bundle is missing, damaged or does not fit
├── FileLeft                       a file beside an image is left as it is: a link, or not what it should be
│   └── FileAway                   it cannot be reached now; another attempt may succeed
├── LeaseLost                      another worker has the chunk, or its job was cancelled; nothing was written
├── StoreFault                     the database rejects a statement or a value: a bug, or one image's data
├── TrainingDiverged               the training loss is not finite
├── Interrupted                    Ctrl-C, with what becomes of the work; the command exits 130
└── ServiceUnavailable             temporary: the work waits for it, and no image is blamed
    ├── StoreUnavailable           the database does not answer
    │   └── StoreRefused           it refuses this user, name or file; waiting does not help
    ├── BrokerUnavailable          the broker does not answer
    │   └── BrokerRefused          no worker and no producer can use it as it is set up; waiting does not help
    ├── DecodePoolUnavailable      no decode process can be started
    ├── DeviceOutOfMemory          the device has no memory for a batch of this size
    ├── DeviceFailed               the device fails for the rest of this process
    └── RootUnavailable            a root is not visible (unmounted, for example)
        └── FolderUnavailable      a folder below a root is not visible
"""

from captioning.values import Reason


class CaptioningError(Exception):
    """Base class. The message says what happened, with the value, and what to do."""

    exit_code = 1  # of the command that it ends


class UsageError(CaptioningError):
    """The input of the person who runs the command cannot be used."""

    exit_code = 2


class PathsGone(UsageError):
    """Paths that the person named do not exist. `paths` are absolute."""

    def __init__(self, message: str, paths: tuple[bytes, ...]) -> None:
        super().__init__(message)
        self.paths = paths


class CaptionChanged(UsageError):
    """An edit is for a caption that the file does not show any more."""


class UrlRefused(UsageError):
    """A URL is not taken. The message repeats nothing that may be secret."""


class ImageError(CaptioningError):
    """One image cannot be captioned. `reason` and `detail` are stored on its item."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ArchiveError(ImageError):
    """An archive is damaged, or larger than the limits: none of its members is taken."""


class AddressRefused(ImageError, OSError):
    """A URL leads to an address that must not be connected to, or to a scheme that is not encrypted.

    It is an OSError too, because it is raised where libraries make sockets.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.FORBIDDEN, detail)


class FileUnreachable(ImageError):
    """A file cannot be read, and neither can anything around it: it may come back, as when a disk was unmounted.

    `reason` and `detail` are stored if it does not come back in time. An empty folder looks like the mount point of an
    unmounted disk; a folder that is gone itself (`folder_gone`) looks more like somebody deleted it.
    """

    def __init__(self, reason: Reason, detail: str, *, folder_gone: bool = False) -> None:
        super().__init__(reason, detail)
        self.folder_gone = folder_gone


class BundleError(CaptioningError):
    """A model bundle cannot be found, read or trusted."""


class FileLeft(CaptioningError):
    """A file beside an image must not be read or written, so it is left as it is."""


class FileAway(FileLeft):
    """A file cannot be put back now, perhaps because its disk is not mounted."""


class LeaseLost(CaptioningError):
    """The chunk was claimed by another worker, or its job was cancelled. Nothing was written."""


class StoreFault(CaptioningError):
    """The database rejects a statement or a value. It is up, so waiting does not help."""


class TrainingDiverged(CaptioningError):
    """The training loss became infinite or not a number."""


class Interrupted(CaptioningError):
    """A person pressed Ctrl-C. The message says what becomes of the work."""

    exit_code = 130


class ServiceUnavailable(CaptioningError):
    """A service that the work depends on is temporarily unavailable."""


class StoreUnavailable(ServiceUnavailable):
    """The database does not answer."""


class StoreRefused(StoreUnavailable):
    """The database refuses this user, its name or this file. Waiting does not help."""


class BrokerUnavailable(ServiceUnavailable):
    """The broker does not answer, or does not take messages."""


class BrokerRefused(BrokerUnavailable):
    """Nobody can use the broker as it is set up. Waiting does not help."""


class DecodePoolUnavailable(ServiceUnavailable):
    """No decode process can be started, for lack of memory or processes. No image is to blame."""


class DeviceOutOfMemory(ServiceUnavailable):
    """The device has too little memory for the batch; a smaller batch may fit."""


class DeviceFailed(ServiceUnavailable):
    """The device does not work any more in this process (a "sticky" CUDA error); a new process may work."""


class RootUnavailable(ServiceUnavailable):
    """A root is not visible from this machine."""


class FolderUnavailable(RootUnavailable):
    """A folder below a root is not visible; the other images of the chunk are finished."""
