"""The images in a bucket, and files that are named by their URLs."""

from collections.abc import Iterator, Sequence
from itertools import islice

from captioning.archives import is_archive
from captioning.errors import ImageError
from captioning.paths import is_url, text_of
from captioning.remote import RemoteFile, RemoteStore, root_of
from captioning.store.files import FoundFile
from captioning.values import Reason
from producer.sources import kinds, private
from producer.sources.patterns import Filters, Selection
from producer.sources.report import SourceReport
from producer.sources.skips import Skips

_LOOKED_UP_AT_ONCE = 200
_CATEGORIES = {Reason.MISSING: "object that does not exist", Reason.FORBIDDEN: "object without permission"}


class BucketWalk:
    """Looks for images in buckets. Patterns apply to the keys below the named folder, as they do to paths.

    `refused` counts folders that cannot be listed; a line about each goes to the report.
    """

    def __init__(
        self, remote: RemoteStore, filters: Filters, skips: Skips, matched: set[tuple[str, str]], report: SourceReport
    ) -> None:
        self._remote, self._filters, self._skips = remote, filters, skips
        self._matched, self._report = matched, report
        self.refused = 0

    def images_below(self, prefix: bytes) -> Iterator[FoundFile]:
        """Yield the images in a bucket, or below a folder in it, sorted by name within each folder."""
        top = prefix.rstrip(b"/")
        selection = Selection(self._filters, top, self._matched)
        pending = [top]
        while pending:
            folders = []
            for file in self._listed(pending.pop()):
                category = _category(file, file.url[len(top) + 1 :], selection)
                if category == "folder":
                    folders.append(file.url)
                elif category == "image":
                    yield _found(file)
                else:
                    self._skips.add(file.url, category)
            pending.extend(reversed(folders))

    def named(self, urls: Sequence[bytes]) -> Iterator[FoundFile]:
        """Yield files that are named, whatever their extensions.

        Objects of buckets are looked up first. A file of a web server is not: it is asked once, by the worker.
        """
        yield from (FoundFile(url, 0, 0) for url in urls if url.startswith(b"https:"))
        objects = (url for url in urls if not url.startswith(b"https:"))
        while page := list(islice(objects, _LOOKED_UP_AT_ONCE)):
            for url, found in zip(page, self._remote.look_up(page), strict=True):
                if isinstance(found, ImageError):
                    self.refused += 1
                    self._skips.add(url, _CATEGORIES.get(found.reason, "object that cannot be looked at"))
                elif found.is_folder:
                    yield from self.images_below(url)
                else:
                    yield _found(found)

    def _listed(self, folder: bytes) -> list[RemoteFile]:
        try:
            found = self._remote.list_folder(folder)
        except ImageError as error:
            self.refused += 1
            self._skips.add(folder, "folder that cannot be listed")
            self._report.warn(f"{text_of(folder)}: {error}")
            return []
        if not found and folder == root_of(folder):
            self._report.warn(f"{text_of(folder)}: the bucket is empty")
        return found


def _category(file: RemoteFile, below: bytes, selection: Selection) -> str:
    """Return `folder`, `image`, or the category under which an object is counted as skipped."""
    if file.problem:
        return file.problem
    if file.name.startswith(b"."):
        return "hidden"
    if file.is_folder:
        return private.category_of(file.url.partition(b"://")[2]) or selection.category_of_folder(below)
    return selection.category_of_image(below) if kinds.is_image(file.name) else kinds.category_of(file.name)


def _found(file: RemoteFile) -> FoundFile:
    return FoundFile(file.url, file.size, file.mtime_ns, file.version)


def is_archive_elsewhere(path: bytes) -> bool:
    """Return whether a URL names an archive: only those on this machine are looked into."""
    return is_url(path) and is_archive(path.partition(b"?")[0])
