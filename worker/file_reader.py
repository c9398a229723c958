"""Reads the files of a chunk, wherever they are: in folders or in archives."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from captioning.archives import ArchiveLimits, limits_of, split_member
from captioning.settings import Settings
from captioning.store.leases import ClaimedItem
from worker.archive_reader import ArchiveReader
from worker.reader import FileBytes, is_visible, read_file

ReadItem = Callable[[ClaimedItem], FileBytes]


class FileReader:
    """One per pool process. Not for several threads at once."""

    def __init__(self, max_bytes: int, archive_limits: ArchiveLimits) -> None:
        self._max_bytes = max_bytes
        self._archives = ArchiveReader(archive_limits)

    @classmethod
    def of(cls, settings: Settings) -> "FileReader":
        """Return a reader with the limits that the settings say."""
        return cls(settings.max_bytes, limits_of(settings))

    @contextmanager
    def reading(
        self, root: bytes, items: Sequence[ClaimedItem], on_progress: Callable[[], object]
    ) -> Iterator[ReadItem]:
        """Provide a function that reads an item of a chunk; it is called for the items in their order.

        `on_progress` is called while a read takes long and advances. The function raises what `read_file` raises.
        """

        def read(item: ClaimedItem) -> FileBytes:
            member = split_member(item.path)
            if member is None or is_visible_folder(root, member[0] + b"!"):
                return read_file(root, item, self._max_bytes)
            return self._archives.read(root, *member, item, self._max_bytes, on_progress)

        yield read

    def close(self) -> None:
        """Close what is kept open between chunks."""
        self._archives.close()


def is_visible_folder(root: bytes, folder: bytes) -> bool:
    """Return whether there is a folder called like an archive, with the mark: then its files are meant."""
    return is_visible(root.rstrip(b"/") + b"/" + folder)
