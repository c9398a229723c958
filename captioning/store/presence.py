"""Which files of the store are still on disk: mark those that are gone, and nothing that is only out of reach."""

import errno
import functools
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from captioning.archives import ArchiveLimits, list_archive, split_member
from captioning.errors import ArchiveError, ImageError
from captioning.mounts import Mounts
from captioning.paths import hash_of, is_below, is_url, unicode_forms
from captioning.store.database import Database, now
from captioning.store.files import RootPath, at_or_below, roots
from captioning.store.schema import File, Mount

PAGE_SIZE = 10_000  # rows that are compared with the disk between two transactions
_MAX_CONDITIONS = 100  # paths in one query; of more, this process finds the files below them
LookUp = Callable[[Sequence[bytes]], Collection[bytes]]
_NOT_THERE = (FileNotFoundError, NotADirectoryError)


class FileIdSet:
    """A set of file ids, one bit each: ten million ids take about a megabyte."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, file_id: int) -> None:
        byte = file_id >> 3
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits) + 4096))
        self._bits[byte] |= 1 << (file_id & 7)

    def __contains__(self, file_id: int) -> bool:
        byte = file_id >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (file_id & 7) & 1)


@dataclass
class Absent:
    """Files of the store that are not found on disk."""

    missing: int = 0  # files that are gone, and are marked so from now on
    # Files that may still exist; they stay as they are:
    unmounted: int = 0  # another disk is mounted there now than when they were last seen, or none
    unrecorded: int = 0  # on which disk they were is not known
    unreadable: int = 0  # the disk does not answer, or does not let this user look
    mounts: set[str] = field(default_factory=set)  # identities of the mounts on which the unmounted files were seen
    error: str = ""  # of the first unreadable file

    @property
    def unreachable(self) -> int:
        """The number of files that are neither found nor known to be gone."""
        return self.unmounted + self.unrecorded + self.unreadable

    def __add__(self, other: "Absent") -> "Absent":
        return Absent(
            self.missing + other.missing,
            self.unmounted + other.unmounted,
            self.unrecorded + other.unrecorded,
            self.unreadable + other.unreadable,
            self.mounts | other.mounts,
            self.error or other.error,
        )


def mark_missing(
    db: Database, paths: Sequence[bytes], seen: FileIdSet, page_size: int = PAGE_SIZE, gone: LookUp | None = None
) -> Absent:
    """Mark the files at or below some paths that are gone; return how many, and how many are only out of reach.

    A file is gone when it does not exist and the nearest folder above it that does lies on the mount on which the file
    was last seen. Otherwise its disk may be unmounted, so nothing is marked. `seen` are files that the caller has just
    found. Others may exist too: a walk skips what its filters exclude, hidden files, links and folders that it may not
    read. So they are looked up, in pages of `page_size` rows. The paths are absolute. Files of a bucket are looked up
    by `gone`, which returns the URLs at which there is nothing; without it they stay as they are.
    """
    absent, mounts = Absent(), Mounts()
    for root in roots(db):
        inside = [path for path in paths if is_below(path, root.path) or is_below(root.path, path)]
        conditions = [at_or_below(root, path) for path in inside] if len(inside) <= _MAX_CONDITIONS else [sa.true()]
        query = _files_of(root).where(File.missing_since.is_(None), sa.or_(sa.false(), *conditions))
        named = set(inside)
        for page in _pages(db, query, page_size) if inside else ():
            files = ((root.path.rstrip(b"/") + b"/" + row.path_bytes, row) for row in page if row.id not in seen)
            inside_named = ((path, row) for path, row in files if _is_inside(path, named))
            if is_url(root.path):
                _mark_objects(db, list(inside_named), gone, absent)
            else:
                _mark(db, mounts, inside_named, absent)
    return absent


def _is_inside(path: bytes, named: Collection[bytes]) -> bool:
    """Return whether an absolute path is one of the named paths, or below one."""
    while path not in named:
        if path == (path := os.path.dirname(path)):
            return False
    return True


def mark_files_missing(db: Database, paths: Sequence[bytes], page_size: int = 1000) -> tuple[Absent, list[bytes]]:
    """Mark the files at exactly these paths that are gone, as `mark_missing` does.

    Also returns the paths at which the store knows no file: it may know files below them. All are absolute. A path may
    be given in another Unicode form than the store has.
    """
    absent, mounts = Absent(), Mounts()
    unknown = dict.fromkeys(form for path in paths for form in unicode_forms(path))
    for root in roots(db) if paths else ():
        inside = [path for path in unknown if is_below(path, root.path)]
        for start in range(0, len(inside), page_size):
            by_hash = {hash_of(root.relative(path)): path for path in inside[start : start + page_size]}
            with db.reading() as connection:
                page = connection.execute(_files_of(root).where(File.path_hash.in_(list(by_hash)))).all()
            known = [(by_hash[row.path_hash], row) for row in page if row.missing_since is None]
            _mark(db, mounts, known, absent)
            for row in page:
                del unknown[by_hash[row.path_hash]]
    return absent, list(unknown)


def _mark(db: Database, mounts: Mounts, files: Iterable[tuple[bytes, Row[Any]]], absent: Absent) -> None:
    """Mark those of some files that are gone, and count all that are not found in `absent`."""
    missing = _split(mounts, [(path, row) for path, row in files if _lookup_error(path, row.mtime_ns)], absent)
    _mark_ids(db, missing)


def _mark_ids(db: Database, missing: Sequence[int]) -> None:
    def mark() -> None:
        with db.writing() as connection:
            connection.execute(sa.update(File).where(File.id.in_(missing)).values(missing_since=now()))

    if missing:
        db.retry(mark)


def _mark_objects(db: Database, files: Sequence[tuple[bytes, Row[Any]]], gone: LookUp | None, absent: Absent) -> None:
    """Mark those of some objects of a bucket that are gone. If it cannot be asked, they may still exist."""
    if not files or gone is None:
        return
    try:
        gone_urls = gone([url for url, _ in files])
    except ImageError as error:
        absent.unreadable += len(files)
        absent.error = absent.error or str(error)
        return
    missing = [row.id for url, row in files if url in gone_urls]
    _mark_ids(db, missing)
    absent.missing += len(missing)


def _split(mounts: Mounts, not_found: Sequence[tuple[bytes, Row[Any]]], absent: Absent) -> list[int]:
    """Return the ids of the files that are gone, and count them and the others in `absent`."""
    folders: defaultdict[bytes, list[tuple[bytes, Row[Any]]]] = defaultdict(list)
    for path, row in not_found:
        folders[os.path.dirname(path)].append((path, row))
    missing: list[int] = []
    for folder, group in folders.items():
        before = mounts.of_nearest(folder)
        errors = [(row, _lookup_error(path, row.mtime_ns)) for path, row in group]
        changing = before is None or before != mounts.of_nearest(folder)  # something is mounted at this moment
        for row, error in errors:
            if error is None:
                continue
            if not isinstance(error, _NOT_THERE):
                absent.unreadable += 1
                absent.error = absent.error or os.strerror(error.errno or 0)
            elif row.mount is None or before is None:
                absent.unrecorded += 1
            elif changing or row.mount != before:
                absent.unmounted += 1
                absent.mounts.add(row.mount)
            else:
                missing.append(row.id)
    absent.missing += len(missing)
    return missing


def _lookup_error(path: bytes, mtime_ns: int) -> OSError | None:
    """Return the error of a look at a path: one of `_NOT_THERE` when nothing is there, None when something is.

    `mtime_ns` is what the store knows. The archive of a member is listed only if it was modified since.
    """
    try:
        member = split_member(path)
        if member is None or os.path.lexists(path):
            os.lstat(path)
        else:
            _look_up_member(*member, mtime_ns)
    except OSError as error:  # no permission, or a dead server, for example
        return error
    except ArchiveError:
        return OSError(errno.EIO, os.strerror(errno.EIO))
    return None


def _look_up_member(archive: bytes, name: bytes, mtime_ns: int) -> None:
    """Raise OSError when an archive or its member is not there, ArchiveError when it cannot be listed."""
    status = os.stat(archive)
    if status.st_mtime_ns != mtime_ns and name not in _names_in(archive, (status.st_size, status.st_mtime_ns)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


@functools.lru_cache(maxsize=1)
def _names_in(archive: bytes, _state: tuple[int, int]) -> frozenset[bytes]:
    return frozenset(member.name for member in list_archive(archive, ArchiveLimits()))


def _files_of(root: RootPath) -> sa.Select[Any]:
    """Return the query for the files of a root, with their mounts."""
    columns: tuple[Any, ...] = (File.id, File.path_bytes, File.path_hash, File.missing_since, File.mtime_ns)
    query = sa.select(*columns, Mount.identity.label("mount")).select_from(File)
    return query.outerjoin(Mount, Mount.id == File.mount_id).where(File.root_id == root.id)


def _pages(db: Database, query: sa.Select[Any], size: int) -> Iterator[Sequence[Row[Any]]]:
    """Yield the files of one root that a query finds, in pages; the query selects the path hash.

    No transaction is open while the caller works on a page. The order is that of the unique index on root and
    path hash. With the order of ids, SQLite would sort all rows of the root for each page.
    """
    last_hash = b""

    def read() -> Sequence[Row[Any]]:
        with db.reading() as connection:
            return connection.execute(
                query.where(File.path_hash > last_hash).order_by(File.path_hash).limit(size)
            ).all()

    while page := db.retry(read):
        yield page
        last_hash = page[-1].path_hash
