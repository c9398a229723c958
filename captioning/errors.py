"""Every way captionmill fails, as a tree.

CaptioningError              one line for the person, with a remedy; the CLI exits 1
├── UsageError               the person's input is at fault: the CLI exits 2
├── ImageError               one picture is at fault: recorded on its row, never retried by itself
├── BundleError              a model bundle is missing, broken or does not fit
└── ServiceTrouble           nobody's fault and passing: waited out, blames no picture
    ├── StoreUnavailable     the database does not answer
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


class RootUnavailable(ServiceTrouble):
    """A folder of pictures can't be seen from this machine."""
