"""Paths that a person names, on the command line or in a list: find each on the disk, split folders from files."""

import functools
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_to_bytes

from captioning.archives import archive_of, is_archive, member_path
from captioning.errors import PathsGone, UrlRefused, UsageError
from captioning.paths import absolute, is_below, text_of, unicode_forms
from captioning.remote import checked_url, is_prefix
from captioning.terminal import count
from producer.sources import kinds
from producer.sources.buckets import is_archive_elsewhere
from producer.sources.globs import expand
from producer.sources.report import SILENT, SourceReport
from producer.sources.skips import Skips
from producer.sources.walk import unreachable

_SHOWN_PROBLEMS = 3
_GONE = "path that does not exist"
_SHOWN_CHARACTERS = 300  # of a path in a message
_WEB_ADDRESS = re.compile(rb"(?:https?|ftps?|sftp|s3|gs|smb|data|blob):(?://|image/)", re.IGNORECASE)
_URL = re.compile(rb"(?:https?|s3|gs)://", re.IGNORECASE)
_FILE_URL = re.compile(rb"file://(?:localhost)?(?=/)", re.IGNORECASE)
_WINDOWS_PATH = re.compile(rb"([A-Za-z]):[\\/]")


@dataclass(frozen=True)
class Sources:
    """What a person named: folders to walk, archives to look into and files to take, as absolute paths; and URLs.

    `skipped` counts what is unusable.
    """

    folders: tuple[bytes, ...]
    files: tuple[bytes, ...]
    skipped: Counter[str] = field(default_factory=Counter)
    archives: tuple[bytes, ...] = ()
    prefixes: tuple[bytes, ...] = ()  # URLs of buckets, and of folders in them
    urls: tuple[bytes, ...] = ()  # of files
    gone: tuple[bytes, ...] = ()  # paths of a list at which there is nothing; the store may know files there
    only: frozenset[bytes] | None = None  # paths: of the folders, only what is at or below them is looked at

    @property
    def first(self) -> bytes:
        """The first path."""
        return self.all[0]

    @property
    def all(self) -> tuple[bytes, ...]:
        """All paths and URLs."""
        return (*self.folders, *self.files, *self.archives, *self.prefixes, *self.urls)

    @property
    def walked(self) -> tuple[bytes, ...]:
        """The paths below which a search finds all files; others that the store knows there are looked up."""
        return (*self.folders, *map(member_path, self.archives), *(url.rstrip(b"/") for url in self.prefixes))


@dataclass(frozen=True)
class _Usable:
    path: bytes  # absolute, without links
    kind: Literal["folder", "file", "archive", "prefix", "url"]


@dataclass(frozen=True)
class _Unusable:
    category: str  # under which it is counted
    message: str  # for a person


def read_sources(
    paths: Sequence[bytes], listed: Iterable[bytes] | None = None, report: SourceReport = SILENT
) -> Sources:
    """Split paths, of which `listed` come from a list, into folders and files.

    A typing error is reported at once: UsageError for a path of the command line that does not exist, and when
    nothing is left to take. Of everything else, what is usable is taken; the rest is counted and reported.
    Where paths do not exist, the error is a PathsGone.
    """
    locate = _Locator()
    usable: dict[str, dict[bytes, None]] = {kind: {} for kind in ("folder", "file", "archive", "prefix", "url")}
    skips, problems = Skips(report.skipped), list[str]()
    gone: list[bytes] = []
    expanded = (found for path in paths for found in expand(path, is_url=_URL.match(path) is not None))
    for path, is_listed in ((path, i) for i, group in enumerate((expanded, listed or ())) for path in group):
        found = locate(path)
        if isinstance(found, _Usable):
            usable[found.kind][found.path] = None
            continue
        if found.category == _GONE:
            gone.append(absolute(path))
        if is_listed or not found.category.startswith("path"):
            skips.add(path, found.category)
            problems += [found.message] if len(problems) < _SHOWN_PROBLEMS else []
        else:
            raise _refusal(f"{found.message}.", gone)
    unusable_paths = sum(skips.counts.values())
    if not any(usable.values()):
        raise _refusal(_nothing_left(problems, unusable_paths, listed is not None), gone)
    for problem in problems:
        report.warn(problem)
    if unusable_paths > len(problems):
        report.warn(f"and {count(unusable_paths - len(problems), 'more path')}; --list-skipped names all")
    folders, *others = (tuple(found) for found in usable.values())
    files, archives, prefixes, urls = others
    prefixes = tuple(_outermost(prefixes))
    return Sources(tuple(_outermost(folders)), files, skips.counts, archives, prefixes, urls, tuple(gone))


def _refusal(message: str, gone: list[bytes]) -> UsageError:
    return PathsGone(message, tuple(gone)) if gone else UsageError(message)


def _nothing_left(problems: Sequence[str], number: int, has_list: bool) -> str:
    if number > 1:
        return f"none of the {number} paths can be used: {problems[0]}, and {number - 1} more."
    if number:
        return f"{problems[0]}."
    return "the list names no path." if has_list else "no paths given: producer submit FOLDER."


def _outermost(folders: Iterable[bytes]) -> Iterator[bytes]:
    """Yield, in their order, the folders that are not below another."""
    outer: list[bytes] = []
    for folder in sorted(folders, key=lambda folder: folder.rstrip(b"/") + b"/"):  # what is below follows at once
        if not outer or not is_below(folder, outer[-1]):
            outer.append(folder)
    kept = set(outer)
    return (folder for folder in folders if folder in kept)


class _Locator:
    """Finds paths on the disk. Folders are resolved once: a line of a list costs one look at the disk."""

    def __init__(self) -> None:
        self._real_folder: Callable[[bytes], bytes] = functools.lru_cache(10_000)(absolute)
        self._folder_on_disk: Callable[[bytes], bytes | None] = functools.lru_cache(10_000)(_folder_on_disk)

    def __call__(self, path: bytes) -> _Usable | _Unusable:
        """Look up a path, relative to the current folder or absolute."""
        name = _shortened(text_of(path))
        if not path:
            return _Unusable("path that is empty", "an empty path was given; the current folder is `.`")
        if _URL.match(path.strip()):
            return _judge_url(path)
        if b"\0" in path:
            return _Unusable("path with NUL", f"{name}: a path cannot contain NUL")
        try:
            full, status = self._stat_as_meant(path)
        except (FileNotFoundError, NotADirectoryError):
            return _absent(path, name)
        except OSError as error:
            return _Unusable(unreachable("path", error), f"{name}: {error.strerror}")
        return _judge(full, status, name)

    def _stat_as_meant(self, path: bytes) -> tuple[bytes, os.stat_result]:
        """Look up a path as it is written; if there is no such file, in the other ways in which it may be meant."""
        try:
            return self._stat(path)
        except (FileNotFoundError, NotADirectoryError):
            for other in _other_spellings(path):
                if found := self._on_disk(other):
                    return self._stat(found)
            raise

    def _on_disk(self, path: bytes) -> bytes | None:
        folder, name = os.path.split(path.rstrip(b"/"))
        found = self._folder_on_disk(folder)
        return _entry_on_disk(found, name) if found is not None else None

    def _stat(self, path: bytes) -> tuple[bytes, os.stat_result]:
        folder, name = os.path.split(path.rstrip(b"/"))
        if name in (b"", b".", b".."):
            full = absolute(path)
            return full, os.stat(full)
        full = os.path.join(self._real_folder(folder or b"."), name)
        status = os.lstat(full)
        if stat.S_ISLNK(status.st_mode):
            full = absolute(full)
            status = os.stat(full)
        return full, status


def _shortened(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."


def _absent(path: bytes, name: str) -> _Unusable:
    """Return what to tell about a path at which there is nothing."""
    if _WEB_ADDRESS.match(path.strip()):
        return _Unusable("path with a web address", f"{name} is a web address: download the image first")
    archive = archive_of(path)
    if archive is not None and os.path.isfile(archive):
        return _Unusable("path of a member", f"{name} is in an archive: submit {text_of(archive)}, with --include")
    hint = "; nothing matches this pattern" if re.search(rb"[*?]", path) else ""
    return _Unusable(_GONE, f"{name}: no such file or folder{hint}")


def _judge_url(path: bytes) -> _Usable | _Unusable:
    try:
        url = checked_url(path)
    except UrlRefused as error:
        return _Unusable("path with a URL that is refused", str(error))
    if is_archive_elsewhere(url):
        return _Unusable("path of an archive elsewhere", f"{text_of(url)} is an archive: download it first")
    return _Usable(url, "prefix" if is_prefix(url) else "url")


def _judge(full: bytes, status: os.stat_result, name: str) -> _Usable | _Unusable:
    if stat.S_ISDIR(status.st_mode):
        return _Usable(full, "folder")
    if not stat.S_ISREG(status.st_mode):
        return _Unusable("special file", f"{name} is not a regular file")
    if is_archive(full):
        return _Usable(full, "archive")
    if remedy := kinds.remedy_for(full):
        return _Unusable(kinds.category_of(full), f"{name} {remedy}")
    return _Usable(full, "file")


def _other_spellings(path: bytes) -> Iterator[bytes]:
    """Yield what else a line may mean: without blanks and quotes, a file URL, ~, a Windows drive as WSL shows it.

    Also bytes that are not UTF-8 as they are printed (%E9), and UTF-8 names in a list of an old Windows program.
    """
    word = path.strip()
    if len(word) > 2 and word[:1] == word[-1:] and word[:1] in (b'"', b"'"):
        word = word[1:-1]
    if not path.isascii():
        yield path  # in its other Unicode form
    if word != path:
        yield word
    if _FILE_URL.match(word):
        yield unquote_to_bytes(_FILE_URL.sub(b"", word, count=1))
    if word.startswith(b"~"):
        yield os.path.expanduser(word)
    if drive := _WINDOWS_PATH.match(word):
        yield b"/mnt/" + drive[1].lower() + b"/" + word[3:].replace(b"\\", b"/")
    if b"%" in word:
        yield unquote_to_bytes(word)
    if not word.isascii():
        yield word.decode("cp1252", "replace").encode()


def _folder_on_disk(folder: bytes) -> bytes | None:
    """Return a folder as the disk spells it, part by part; None if it does not exist in any Unicode form."""
    found: bytes | None = b"/" if folder.startswith(b"/") else b""
    for part in filter(None, folder.split(b"/")):
        found = _entry_on_disk(found, part) if found is not None else None
    return found


def _entry_on_disk(folder: bytes, name: bytes) -> bytes | None:
    forms = (os.path.join(folder, form) for form in unicode_forms(name))
    return next((form for form in forms if os.path.lexists(form)), None)
