"""What every archive has: members with a name and a size, limits, and errors that say what is wrong with it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from captioning.environment import PREFIX
from captioning.errors import ArchiveError
from captioning.settings import Settings
from captioning.values import Reason

HARMLESS_BYTES = 100_000_000  # an archive that unpacks to less is no bomb, whatever its ratio
_MAX_DETAIL = 200  # characters
_DRIVE = b":"


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may be at most."""

    members: int = 1_000_000
    unpacked_bytes: int = 10**12
    ratio: int = 100  # bytes unpacked for a byte of the archive

    def most_bytes(self, size: int) -> int:
        """Return to how many bytes an archive of this size may unpack."""
        return min(self.unpacked_bytes, max(self.ratio * size, HARMLESS_BYTES))

    def refuse_members(self) -> ArchiveError:
        """Return the error for an archive with more members."""
        return ArchiveError(
            Reason.TOO_LARGE,
            f"more than {self.members} members; the limit is {PREFIX}MAX_ARCHIVE_MEMBERS",
        )

    def refuse_bytes(self, size: int) -> ArchiveError:
        """Return the error for an archive of this size that unpacks to more bytes than it may."""
        if self.most_bytes(size) == self.unpacked_bytes:
            return ArchiveError(
                Reason.TOO_LARGE,
                f"it unpacks to more than {self.unpacked_bytes} bytes; the limit is {PREFIX}MAX_ARCHIVE_BYTES",
            )
        return ArchiveError(
            Reason.TOO_LARGE,
            f"its {size} bytes unpack to more than {self.most_bytes(size)}, as in a zip bomb; the limit is"
            f" {PREFIX}MAX_ARCHIVE_RATIO={self.ratio}",
        )


def limits_of(settings: Settings) -> ArchiveLimits:
    """Return the limits that the settings say."""
    return ArchiveLimits(settings.max_archive_members, settings.max_archive_bytes, settings.max_archive_ratio)


@dataclass(frozen=True, slots=True)
class Member:
    """A member that is a file. `problem` is the category under which one that cannot be read is counted."""

    name: bytes
    size: int  # bytes, unpacked
    problem: str = ""


class Archive(ABC):
    """An open archive."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits) -> None:
        """Take over an open file, which `close` closes. Raises ArchiveError when it is no archive of this kind."""
        self.file = file
        self.limits = limits
        self.size = os.fstat(file.fileno()).st_size

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """Yield the members in their order, folders left out. Raises ArchiveError, also after some members."""

    @abstractmethod
    def read(self, name: bytes, max_bytes: int, on_progress: Callable[[], object]) -> bytes:
        """Return the content of a member. Fastest in the order of the members.

        `on_progress` is called while other members are passed over. Raises ImageError.
        """

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def damaged(what: str, error: Exception) -> ArchiveError:
    """Return the error for an archive in which a library finds damage; its message may quote long names."""
    return ArchiveError(Reason.UNREADABLE, f"{what} ({str(error)[:_MAX_DETAIL] or type(error).__name__})")


def problem_of_name(name: bytes) -> str:
    """Return the category of a name that leads out of the archive or is no path; empty for any other name.

    A backslash counts as a separator, because the program that unpacks elsewhere may take it for one.
    """
    parts = name.replace(b"\\", b"/").split(b"/")
    is_unsafe = b"" in parts or b"." in parts or b".." in parts or b"\0" in name or parts[0][1:2] == _DRIVE
    return "member with an unsafe path" if is_unsafe else ""
