"""Everything that a person named, as one stream of images with absolute paths."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from captioning.archives import is_archive
from captioning.mounts import Mounts
from captioning.store.files import FoundFile
from producer.sources import kinds
from producer.sources.access import Access
from producer.sources.archives import ArchiveWalk
from producer.sources.buckets import BucketWalk
from producer.sources.named import Sources
from producer.sources.patterns import Filters, unmatched
from producer.sources.report import SILENT, SourceReport
from producer.sources.skips import Skips
from producer.sources.walk import Walk, found_file, unreachable
from producer.sources.wanted import EVERYTHING, Wanted

NO_ACCESS = Access()


class ImageFinder:
    """One search through the sources. `skipped` counts by category what was not taken so far.

    `unmatched` has, after a complete search, a sentence for each pattern that matched nothing.
    """

    def __init__(
        self,
        sources: Sources,
        filters: Filters,
        report: SourceReport = SILENT,
        access: Access = NO_ACCESS,
    ) -> None:
        self._sources = sources
        self._filters = filters
        self._skips = Skips(report.skipped, sources.skipped)
        self._matched: set[tuple[str, str]] = set()
        self._archives = ArchiveWalk(filters, self._skips, self._matched, report, access.limits)
        self._buckets = (
            None if access.remote is None else BucketWalk(access.remote, filters, self._skips, self._matched, report)
        )
        self._mounts = Mounts()
        self._folder: tuple[bytes, str | None] = (b"", None)  # of the last named file, with its mount
        self.unmatched: tuple[str, ...] = ()

    @property
    def refused(self) -> int:
        """How many archives are damaged or larger than the limits, and folders of buckets cannot be listed."""
        return self._archives.refused + (self._buckets.refused if self._buckets is not None else 0)

    @property
    def skipped(self) -> Counter[str]:
        """How many entries were not taken, by category."""
        return self._skips.counts

    def __iter__(self) -> Iterator[FoundFile]:
        """Yield every image."""
        for folder in self._sources.folders:
            wanted = EVERYTHING if self._sources.only is None else Wanted.below(folder, self._sources.only)
            for found in Walk(folder, self._filters, self._skips, self._matched, wanted=wanted):
                yield from self._found(replace(found, path=os.path.join(folder, found.path)))
        images = kinds.partners_by_folder(self._sources.files)
        for path, partner in sorted(self._with_partners(images), key=lambda pair: pair[1] is not None):
            yield from self._named(path, partner)
        for path in self._sources.archives:
            yield from self._archives.images_in(path)
        if self._buckets is not None:
            for prefix in self._sources.prefixes:
                yield from self._buckets.images_below(prefix)
            yield from self._buckets.named(self._sources.urls)
        if self._sources.walked:  # named files are taken whatever the patterns
            self.unmatched = tuple(unmatched(self._filters, self._matched))

    def _found(self, found: FoundFile) -> Iterator[FoundFile]:
        """Yield an image that a walk found, or the images of an archive."""
        if self._filters.archives and is_archive(found.path):
            yield from self._archives.images_in(found.path)
        else:
            yield found

    def _with_partners(self, images: Mapping[bytes, Mapping[bytes, bytes]]) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the named files, each with the name of its partner among them."""
        for path in self._sources.files:
            folder, name = os.path.split(path)
            yield path, kinds.partner_of(name, images.get(folder, {}))

    def _named(self, path: bytes, partner: bytes | None) -> Iterator[FoundFile]:
        """Yield a named file, whatever its extension, if it is still there."""
        try:
            status = os.stat(path)
        except OSError as error:
            self._skips.add(path, unreachable("image", error))
            return
        if stat.S_ISREG(status.st_mode):
            yield replace(found_file(path, status, self._mount_of(path)), partner=partner)
        else:
            self._skips.add(path, "special file")

    def _mount_of(self, path: bytes) -> str | None:
        folder = os.path.dirname(path)
        if folder != self._folder[0]:  # once for each folder: the kernel takes as long as for a stat
            self._folder = folder, self._mounts.of_nearest(folder)
        return self._mounts.of_file(path, self._folder[1])
