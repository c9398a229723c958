"""Find images: walk folders, take named files, read lists of paths. Uses names and stat only; opens no image."""

import contextlib
import errno
import fnmatch
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from captioning.errors import UsageError
from captioning.paths import absolute, is_below, text_of
from captioning.store.files import FoundFile
from captioning.terminal import count

EXTENSIONS = frozenset(
    b".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .mpo .heic .heif .avif .tif .tiff .jxl .jp2"
    b" .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf".split()
)
"""Files with these extensions, in upper or lower case, are taken for images.

Formats that are not decoded are included: such a file gets a failed item with a message that names a remedy.
"""

_MAX_DEVICE_BYTES = 1_000_000  # read from a list that is a device: /dev/zero never ends
_UNREACHABLE = {
    errno.EACCES: "without permission",
    errno.EPERM: "without permission",
    errno.ENOENT: "that no longer exists",  # it was deleted during the walk
    errno.ENAMETOOLONG: "with a path that is too long",  # for PATH_MAX
}
_CATEGORY_NAMES = {"hidden": "hidden file", "filtered": "filtered image"}  # where the category alone is not a noun
_THUMBNAILS = frozenset((b"@eaDir", b"thumbs.db", b"__MACOSX", b"lost+found"))


@dataclass(frozen=True)
class Filters:
    """Which images of a folder are taken. Patterns match the path below the folder, or the name alone."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False

    def accept(self, path: bytes) -> bool:
        """Return whether a path below the folder passes the patterns."""
        text = text_of(path)
        name = text.rpartition("/")[2]

        def matches_any(patterns: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatch(text, p) or fnmatch.fnmatch(name, p) for p in patterns)

        return (not self.include or matches_any(self.include)) and not matches_any(self.exclude)


@dataclass
class Walk:
    """A walk through one folder. `skipped` counts by category the entries that are not taken."""

    folder: bytes
    filters: Filters
    sort_block: int = 50_000  # names of one folder sorted at once: ten million would take gigabytes
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[FoundFile]:
        """Yield the images below the folder, sorted by name within each folder and block of `sort_block` names."""
        home = os.path.realpath(self.folder)
        visited = {home}
        pending = [b""]
        while pending:
            below = pending.pop()
            folders = []
            for entry in self._entries(os.path.join(self.folder, below)):
                path = os.path.join(below, entry.name)
                category = self._categorize(entry, home)
                if category == "folder":
                    self.skipped["folder named like an image"] += _has_image_extension(entry.name)
                    real = os.path.realpath(entry.path) if self.filters.follow_symlinks else entry.path
                    if real not in visited:  # links may form a cycle
                        visited.update({real} if self.filters.follow_symlinks else ())
                        folders.append(path)
                elif category == "image" and self.filters.accept(path):
                    yield from self._found(entry.path, path)
                else:
                    self.skipped["filtered" if category == "image" else category] += 1
            pending.extend(reversed(folders))

    def _entries(self, folder: bytes) -> Iterator[os.DirEntry[bytes]]:
        """Yield the entries of a folder, sorted by name within each block."""
        try:
            with os.scandir(folder) as entries:
                while block := sorted(islice(entries, self.sort_block), key=lambda entry: entry.name):
                    yield from block
        except OSError as error:
            self._skip("folder", error)

    def _found(self, full: bytes, path: bytes) -> Iterator[FoundFile]:
        """Yield the image if it exists and may be looked up."""
        try:
            status = os.stat(full)
        except OSError as error:
            self._skip("image", error)
        else:
            yield _found_file(path, status)

    def _skip(self, what: str, error: OSError) -> None:
        self.skipped[f"{what} {_UNREACHABLE.get(error.errno or 0, f'({error.strerror})')}"] += 1

    def _categorize(self, entry: os.DirEntry[bytes], home: bytes) -> str:
        """Return `folder`, `image`, or the category under which the entry is counted as skipped."""
        if entry.name.startswith(b"."):
            return "hidden"
        if entry.is_symlink():
            if not self.filters.follow_symlinks:
                return "link"
            if not is_below(os.path.realpath(entry.path), home):
                return "link out of the folder"
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # for example a link to itself
            is_folder = is_file = False
        if is_folder:
            return "thumbnail folder" if entry.name in _THUMBNAILS else "folder"
        if not is_file:
            return "special file"
        return "image" if _has_image_extension(entry.name) else "other file"


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return skipped entries for people, the most frequent category first: `2 other files, 1 hidden file`."""
    categories = sorted((-number, category) for category, number in skipped.items() if number)
    return ", ".join(count(-number, *_singular_and_plural(category)) for number, category in categories)


def _singular_and_plural(category: str) -> tuple[str, str]:
    singular = _CATEGORY_NAMES.get(category, category)
    plural = re.sub(r"\b(file|folder|image|link)\b", r"\1s", singular, count=1)
    return singular, plural.replace(" that no longer exists", " that no longer exist")


def _has_image_extension(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _found_file(path: bytes, status: os.stat_result) -> FoundFile:
    latest = 2**63 - 1  # nanoseconds, the store's limit; a camera with a wrong clock may give a file any time
    return FoundFile(path, status.st_size, max(-latest, min(status.st_mtime_ns, latest)))


def named_file(path: bytes) -> FoundFile:
    """Return a file that a person named; its extension does not matter. Raises UsageError when it is not a file."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(f"{text_of(path)}: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{text_of(path)} is not a regular file.")
    return _found_file(path, status)


@dataclass(frozen=True)
class Sources:
    """What a person named: folders to walk and files to take, as absolute paths."""

    folders: tuple[bytes, ...]
    files: tuple[bytes, ...]


def read_sources(paths: Sequence[bytes], listed: Sequence[bytes] = ()) -> Sources:
    """Split paths into folders and files. Raises UsageError for a path that does not exist."""
    folders: list[bytes] = []
    files: list[bytes] = []
    for path in (*paths, *listed):
        if not path:
            raise UsageError("an empty path was given; the current folder is `.`.")
        if b"\0" in path:
            raise UsageError(f"{text_of(path)[:200]}: a path cannot contain NUL; read a list separated by NUL with -0.")
        full = absolute(path)
        try:
            is_folder = stat.S_ISDIR(os.stat(full).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{text_of(path)}: no such file or folder.") from None
        except OSError as error:
            raise UsageError(f"{text_of(path)}: {error.strerror}.") from None
        (folders if is_folder else files).append(full)
    if not folders and not files:
        raise UsageError("no paths given: producer submit FOLDER.")
    unique = list(dict.fromkeys(folders))
    outer = [f for f in unique if not any(f != other and is_below(f, other) for other in unique)]
    return Sources(tuple(outer), tuple(dict.fromkeys(files)))


def read_list(name: str, *, null: bool) -> list[bytes]:
    """Read paths, one per line or separated by NUL, from a file, or from standard input for `-`."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            is_device = stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty()
            data = file.read(_MAX_DEVICE_BYTES if is_device else -1)
    except OSError as error:
        raise UsageError(f"cannot read the list {name}: {error.strerror}.") from None
    if is_device and len(data) == _MAX_DEVICE_BYTES:
        raise UsageError(f"the list {name} is a device that never ends.")
    if null:
        return [path for path in data.split(b"\0") if path.strip()]
    return [line.rstrip(b"\r") for line in data.split(b"\n") if line.strip()]
