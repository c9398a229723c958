"""The images in one archive, and why its other members are not taken."""

import functools
import os
from collections.abc import Iterator
from dataclasses import replace

from captioning.archives import ArchiveLimits, Member, is_archive, list_archive, member_path
from captioning.errors import ArchiveError
from captioning.mounts import Mounts
from captioning.paths import text_of
from captioning.store.files import FoundFile
from producer.sources import kinds, private
from producer.sources.patterns import Filters, Selection
from producer.sources.report import SourceReport
from producer.sources.skips import Skips
from producer.sources.walk import found_file, unreachable

REFUSED = "archive that is refused"
_DANGEROUS = ("member with an unsafe path", "member with a repeated name")


class ArchiveWalk:
    """Looks into archives. Patterns apply to the paths of members in their archive, as they do to those in a folder.

    `refused` counts archives that are damaged or larger than the limits; a line about each goes to the report.
    """

    def __init__(
        self, filters: Filters, skips: Skips, matched: set[tuple[str, str]], report: SourceReport, limits: ArchiveLimits
    ) -> None:
        self._filters, self._skips, self._matched = filters, skips, matched
        self._report, self._limits = report, limits
        self._mounts = Mounts()
        self.refused = 0

    def images_in(self, archive: bytes) -> Iterator[FoundFile]:
        """Yield the images of an archive, an absolute path, in their order; nothing of one that is refused."""
        name = text_of(archive)
        try:
            status = os.stat(archive)
            if os.path.lexists(member_path(archive)):
                raise FileExistsError(0, f"the folder {name}! has the paths that its members would have; rename it")
            members = list_archive(archive, self._limits)
        except (ArchiveError, OSError) as error:
            is_gone = isinstance(error, FileNotFoundError)
            self.refused += 1
            self._skips.add(archive, unreachable("archive", error) if is_gone else REFUSED)  # type: ignore[arg-type]
            self._report.warn(f"{name}: {(isinstance(error, OSError) and error.strerror) or error}")
            return
        as_file = found_file(archive, status, self._mounts.of_nearest(archive))
        for member in self._taken(archive, members):
            path = member_path(archive, member.name)
            yield replace(as_file, path=path, size=member.size, is_ordered=True)

    def _taken(self, archive: bytes, members: list[Member]) -> Iterator[Member]:
        selection = Selection(self._filters, member_path(archive), self._matched)
        warned: set[str] = set()
        for member in members:
            category = _category(member, selection)
            if category == "image":
                yield member
                continue
            path = member_path(archive, member.name)
            self._skips.add(path, category)
            if category in _DANGEROUS and category not in warned:
                warned.add(category)
                self._report.warn(f"{text_of(path)} is a {category} and is not taken")


def _category(member: Member, selection: Selection) -> str:
    """Return `image`, or the category under which a member is counted as skipped."""
    folder, _, name = member.name.rpartition(b"/")
    if member.problem:
        return member.problem
    if name.startswith(b".") or b"/." in b"/" + folder:
        return "hidden"
    if folder and (category := _category_of_folder(folder)):
        return category
    if is_archive(name):
        return "nested archive"
    return selection.category_of_image(member.name) if kinds.is_image(name) else kinds.category_of(name)


@functools.lru_cache(10_000)
def _category_of_folder(folder: bytes) -> str | None:
    """Return the category of a folder that other programs keep for themselves, or of one above it: `__MACOSX`."""
    above = os.path.dirname(folder)
    return (_category_of_folder(above) if above else None) or private.category_of(folder)
