"""What a search for images may use besides the disk."""

from dataclasses import dataclass, field

from captioning.archives import ArchiveLimits, limits_of
from captioning.remote import RemoteStore
from captioning.settings import Settings


@dataclass(frozen=True)
class Access:
    """Limits on archives, and the way to buckets; without one no URL is taken."""

    limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    remote: RemoteStore | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Access":
        """Return what the settings say. Nothing is connected yet."""
        return cls(limits_of(settings), RemoteStore(settings))
