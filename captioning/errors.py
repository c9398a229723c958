"""Every way captionmill fails, as a tree.

CaptioningError              one line for the person, with a remedy; the CLI exits 1
├── UsageError               the person's input is at fault: the CLI exits 2
├── ImageError               one picture is at fault: recorded on its row, never retried by itself
├── BundleError              a model bundle is missing, broken or does not fit
└── ServiceTrouble           nobody's fault and passing: waited out, blames no picture
    ├── StoreUnavailable     the database does not answer
    ├── DeviceFull           the device has no memory left for so many pictures at once
    ├── DeviceBroken         the device fails for this process from now on
    └── RootUnavailable      a whole folder is out of sight (unmounted, say)
"""

from captioning.values import Reason


class CaptioningError(Exception):
    """Something broke; the message says what happened, with the value, and what to do."""


class UsageError(CaptioningError):
    """The input of the person at the keyboard can't be used."""


class ImageError(CaptioningError):
    """One picture can't be captioned; `reason` is what its row will say."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class BundleError(CaptioningError):
    """A model bundle can't be found, read or trusted."""


class ServiceTrouble(CaptioningError):
    """A service that the work stands on is away for now."""


class StoreUnavailable(ServiceTrouble):
    """The database doesn't answer."""


class DeviceFull(ServiceTrouble):
    """The device has not enough memory for what it was given; less may do."""


class DeviceBroken(ServiceTrouble):
    """The device answers nothing any more in this process (a "sticky" CUDA error); a new process may do."""


class RootUnavailable(ServiceTrouble):
    """A folder of pictures can't be seen from this machine."""
