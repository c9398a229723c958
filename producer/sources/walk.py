"""Walk a folder: which of its entries are images to take, and why the others are not."""

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from captioning.archives import is_archive
from captioning.mounts import Mounts
from captioning.paths import is_below
from captioning.store.files import FoundFile
from producer.sources import kinds, private
from producer.sources.patterns import Filters, Selection
from producer.sources.skips import Skips
from producer.sources.wanted import EVERYTHING, Wanted

_UNREACHABLE = {
    errno.EACCES: "without permission",
    errno.EPERM: "without permission",
    errno.ENOENT: "that no longer exists",  # it was deleted during the walk
    errno.ENAMETOOLONG: "with a path that is too long",  # for PATH_MAX
}


class Walk:
    """A walk through one folder. `skips` counts the entries that are not taken, `matched` collects the patterns used.

    `sort_block`: names of one folder that are sorted at once, because ten million would take gigabytes. `wanted`: what
    is looked at; everything by default.
    """

    def __init__(
        self,
        folder: bytes,
        filters: Filters,
        skips: Skips,
        matched: set[tuple[str, str]],
        sort_block: int = 50_000,
        wanted: Wanted = EVERYTHING,
    ) -> None:
        self.folder = folder
        self._follow_symlinks = filters.follow_symlinks
        self._archives = filters.archives
        self._selection = Selection(filters, folder, matched)
        self._skips = skips
        self._sort_block = sort_block
        self._mounts = Mounts()
        self._wanted = wanted

    def __iter__(self) -> Iterator[FoundFile]:
        """Yield the images below the folder, sorted by name within each folder and block of `sort_block` names.

        Files that share the caption of an image of their block come after all images.
        """
        home = os.path.realpath(self.folder)
        visited = {home}
        pending = [b""]
        while pending:
            below = pending.pop()
            folders = []
            mount = self._mounts.of_nearest(os.path.join(self.folder, below))
            for entry, partner in self._entries(below, self._wanted.names_in(below)):
                path = os.path.join(below, entry.name)
                category = self._categorize(entry, path, home, partner)
                if category == "folder":
                    if kinds.is_image(entry.name):
                        self._skips.add(entry.path, "folder named like an image")
                    real = os.path.realpath(entry.path) if self._follow_symlinks else entry.path
                    if real not in visited:  # links may form a cycle
                        visited.update({real} if self._follow_symlinks else ())
                        folders.append(path)
                elif category == "image":
                    for found in self._found(entry.path, path, mount):
                        yield replace(found, partner=partner, has_pixels=kinds.is_image(entry.name))
                else:
                    self._skips.add(entry.path, category)
            pending.extend(reversed(folders))

    def _entries(
        self, below: bytes, names: Collection[bytes] | None
    ) -> Iterator[tuple[os.DirEntry[bytes], bytes | None]]:
        """Yield the entries of a folder with the names of their partners, sorted by name within each block.

        `names`: only those with these names, and files that share the caption of one of these.
        """
        if names is not None and not names:
            return
        folder = os.path.join(self.folder, below)
        try:
            with os.scandir(folder) as listed:
                entries = listed if names is None else _with_partners(listed, names)
                while block := sorted(islice(entries, self._sort_block), key=lambda entry: entry.name):
                    images = self._partners(below, block)
                    paired = [(entry, kinds.partner_of(entry.name, images)) for entry in block]
                    for entry, partner in sorted(paired, key=lambda pair: pair[1] is not None):
                        if names is None or entry.name in names or partner in names:
                            yield entry, partner
        except OSError as error:
            self._skips.add(folder, unreachable("folder", error))

    def _partners(self, below: bytes, block: Sequence[os.DirEntry[bytes]]) -> dict[bytes, bytes]:
        """Return the images of a block that others may share the caption of: those that are taken."""
        if not any(kinds.may_have_partner(entry.name) for entry in block):
            return {}
        names = (entry.name for entry in block if kinds.may_be_partner(entry.name) and not entry.is_symlink())
        return kinds.partners(
            name for name in names if self._selection.category_of_image(os.path.join(below, name)) == "image"
        )

    def _found(self, full: bytes, path: bytes, mount: str | None) -> Iterator[FoundFile]:
        """Yield the image if it exists and may be looked up. `mount` is that of its folder."""
        try:
            status = os.stat(full)
        except OSError as error:
            self._skips.add(full, unreachable("image", error))
        else:
            yield found_file(path, status, self._mounts.of_file(full, mount))

    def _categorize(self, entry: os.DirEntry[bytes], path: bytes, home: bytes, partner: bytes | None) -> str:
        """Return `folder`, `image`, or the category under which the entry is counted as skipped."""
        if entry.name.startswith(b"."):
            return "hidden"
        if entry.is_symlink():
            if not self._follow_symlinks:
                return "link"
            if not is_below(os.path.realpath(entry.path), home):
                return "link out of the folder"
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # for example a link to itself
            is_folder = is_file = False
        if is_folder:
            return private.category_of(entry.path) or self._selection.category_of_folder(path)
        if not is_file:
            return "special file"
        return self._categorize_file(entry.name, path, partner)

    def _categorize_file(self, name: bytes, path: bytes, partner: bytes | None) -> str:
        if self._archives and is_archive(name):  # patterns treat it as a folder of its members
            return "image" if self._selection.category_of_folder(path) == "folder" else "filtered"
        is_image = partner is not None or kinds.is_image(name)
        return self._selection.category_of_image(path) if is_image else kinds.category_of(name)


def _with_partners(entries: Iterable[os.DirEntry[bytes]], names: Collection[bytes]) -> Iterator[os.DirEntry[bytes]]:
    """Return the entries with some names, and those that may share a caption with one of them."""
    stems = {stem for name in names if (stem := kinds.stem_in_pair(name)) is not None}
    return (entry for entry in entries if entry.name in names or kinds.stem_in_pair(entry.name) in stems)


def unreachable(what: str, error: OSError) -> str:
    """Return the category of something that cannot be looked up: `image without permission`."""
    return f"{what} {_UNREACHABLE.get(error.errno or 0, f'({error.strerror})')}"


def found_file(path: bytes, status: os.stat_result, mount: str | None) -> FoundFile:
    """Return a file as the store knows it."""
    latest = 2**63 - 1  # nanoseconds, the store's limit; a camera with a wrong clock may give a file any time
    mtime_ns, ctime_ns = (max(-latest, min(ns, latest)) for ns in (status.st_mtime_ns, status.st_ctime_ns))
    return FoundFile(path, status.st_size, mtime_ns, ctime_ns, mount)
