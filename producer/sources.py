"""Where images come from: folders walked, files named, lists read. Only names and stat; nothing is opened."""

import contextlib
import errno
import fnmatch
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from captioning.errors import UsageError
from captioning.paths import absolute, is_below, text_of
from captioning.store.files import FoundFile

EXTENSIONS = frozenset(
    b".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .mpo .heic .heif .avif .tif .tiff .jxl .jp2"
    b" .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf".split()
)
"""Taken for images, in any case. Those that we don't open are queued too, so that they fail with a remedy."""

_DEVICE_MOST = 1_000_000  # bytes of a list that is a device: /dev/null has none, /dev/zero no end
_UNREACHABLE = {
    errno.EACCES: "without permission",
    errno.EPERM: "without permission",
    errno.ENOENT: "that has just gone",
    errno.ENAMETOOLONG: "too deep",  # PATH_MAX
}
_THUMBNAILS = frozenset((b"@eaDir", b"thumbs.db", b"__MACOSX", b"lost+found"))


@dataclass(frozen=True)
class Filters:
    """Which files of a folder count; patterns are matched against the path below the folder and the name."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False

    def accept(self, path: bytes) -> bool:
        """Tell whether a path below the folder passes."""
        text = text_of(path)
        name = text.rpartition("/")[2]

        def any_of(patterns: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatch(text, p) or fnmatch.fnmatch(name, p) for p in patterns)

        return (not self.include or any_of(self.include)) and not any_of(self.exclude)


@dataclass
class Walk:
    """A folder being walked; `skipped` counts by kind what was passed over."""

    folder: bytes
    filters: Filters
    sorted_at_once: int = 50_000  # names of one folder: ten million would take gigabytes
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[FoundFile]:
        """Yield the images below the folder, each folder's files in the order of their names, so many at once."""
        home = os.path.realpath(self.folder)
        visited = {home}
        stack = [b""]
        while stack:
            below = stack.pop()
            folders = []
            for entry in self._entries(os.path.join(self.folder, below)):
                path = os.path.join(below, entry.name)
                kind = self._kind(entry, home)
                if kind == "folder":
                    self.skipped["folder named like an image"] += _looks_like_a_image(entry.name)
                    real = os.path.realpath(entry.path) if self.filters.follow_symlinks else entry.path
                    if real not in visited:  # links may form a ring
                        visited.update({real} if self.filters.follow_symlinks else ())
                        folders.append(path)
                elif kind == "image" and self.filters.accept(path):
                    yield from self._found(entry.path, path)
                else:
                    self.skipped["filtered" if kind == "image" else kind] += 1
            stack.extend(reversed(folders))

    def _entries(self, folder: bytes) -> Iterator[os.DirEntry[bytes]]:
        """Yield what is in a folder by name; of a folder with a great many names, block after block of them."""
        try:
            with os.scandir(folder) as entries:
                while block := sorted(islice(entries, self.sorted_at_once), key=lambda entry: entry.name):
                    yield from block
        except OSError as error:
            self._pass_over("folder", error)

    def _found(self, full: bytes, path: bytes) -> Iterator[FoundFile]:
        """Yield the image, if it can be reached."""
        try:
            status = os.stat(full)
        except OSError as error:
            self._pass_over("image", error)
        else:
            yield _described(path, status)

    def _pass_over(self, what: str, error: OSError) -> None:
        self.skipped[f"{what} {_UNREACHABLE.get(error.errno or 0, f'({error.strerror})')}"] += 1

    def _kind(self, entry: os.DirEntry[bytes], home: bytes) -> str:
        """Return folder, image, or the kind under which the entry is skipped."""
        if entry.name.startswith(b"."):
            return "hidden"
        if entry.is_symlink():
            if not self.filters.follow_symlinks:
                return "link"
            if not is_below(os.path.realpath(entry.path), home):
                return "link out of the folder"
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself, say
            is_folder = is_file = False
        if is_folder:
            return "thumbnail folder" if entry.name in _THUMBNAILS else "folder"
        plain = "image" if _looks_like_a_image(entry.name) else "other file"
        return plain if is_file else "special file"


def _looks_like_a_image(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _described(path: bytes, status: os.stat_result) -> FoundFile:
    latest = 2**63 - 1  # that the store can hold; a file's time may be any, as a camera without a battery has it
    return FoundFile(path, status.st_size, max(-latest, min(status.st_mtime_ns, latest)))


def named_file(path: bytes) -> FoundFile:
    """Return a file that a person named, whatever it is called. Raises UsageError when it isn't a file."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(f"{text_of(path)}: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{text_of(path)} is not a regular file.")
    return _described(path, status)


@dataclass(frozen=True)
class Sources:
    """What a person pointed at: folders to walk, files to take; absolute paths."""

    folders: tuple[bytes, ...]
    files: tuple[bytes, ...]


def read_sources(paths: Sequence[bytes], listed: Sequence[bytes] = ()) -> Sources:
    """Sort paths into folders and files. Raises UsageError, with the path, when one isn't there."""
    folders: list[bytes] = []
    files: list[bytes] = []
    for path in (*paths, *listed):
        if not path:
            raise UsageError("an empty path was given; for the folder where you are, say `.`.")
        if b"\0" in path:
            raise UsageError(f"{text_of(path)[:200]}: no name holds a NUL; a list separated by NUL is read with -0.")
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
    """Read paths from a file, or from standard input for '-': one a line, or separated by NUL."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            endless = stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty()
            data = file.read(_DEVICE_MOST if endless else -1)
    except OSError as error:
        raise UsageError(f"can't read the list {name}: {error.strerror}.") from None
    if endless and len(data) == _DEVICE_MOST:
        raise UsageError(f"the list {name} is a device that never ends.")
    return [line.rstrip(b"\r") if not null else line for line in data.split(b"\0" if null else b"\n") if line.strip()]
