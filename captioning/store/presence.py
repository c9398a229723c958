"""Which files of the store are still on disk: mark those that are gone, and nothing that is only out of reach."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from captioning.mounts import Mounts
from captioning.paths import hash_of, is_below
from captioning.store.database import Database, now
from captioning.store.files import RootPath, roots
from captioning.store.schema import File, Mount

PAGE_SIZE = 10_000  # rows that are compared with the disk between two transactions


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
    unreachable: int = 0  # files that may be on a disk that is not mounted now; they stay as they are
    mounts: set[str] = field(default_factory=set)  # identities of the mounts on which the unreachable files were seen

    def __add__(self, other: "Absent") -> "Absent":
        return Absent(self.missing + other.missing, self.unreachable + other.unreachable, self.mounts | other.mounts)


def mark_missing(db: Database, path: bytes, seen: FileIdSet, page_size: int = PAGE_SIZE) -> Absent:
    """Mark the files at or below a path that are gone; return how many, and how many are only out of reach.

    A file is gone when it does not exist and the nearest folder above it that does lies on the mount on which the file
    was last seen. Otherwise its disk may be unmounted, so nothing is marked. `seen` are files that the caller has just
    found. Others may exist too: a walk skips what its filters exclude, hidden files, links and folders that it may not
    read. So they are looked up, in pages of `page_size` rows.
    """
    absent, mounts = Absent(), Mounts()
    for root in roots(db):
        if not (is_below(root.path, path) or is_below(path, root.path)):
            continue
        for page in _pages(db, _files_below(root, path), page_size):
            unseen = ((os.path.join(root.path, row.path_bytes), row) for row in page if row.id not in seen)
            _mark(db, mounts, unseen, absent)
    return absent


def mark_files_missing(db: Database, paths: Sequence[bytes], page_size: int = 1000) -> Absent:
    """Mark the files at exactly these paths that are gone, as `mark_missing` does. The paths are absolute."""
    absent, mounts = Absent(), Mounts()
    for root in roots(db) if paths else ():
        below = [path[len(root.path.rstrip(b"/")) + 1 :] for path in paths if is_below(path, root.path)]
        for start in range(0, len(below), page_size):
            hashes = [hash_of(path) for path in below[start : start + page_size]]
            with db.reading() as connection:
                page = connection.execute(_files_below(root, root.path).where(File.path_hash.in_(hashes))).all()
            _mark(db, mounts, [(os.path.join(root.path, row.path_bytes), row) for row in page], absent)
    return absent


def _mark(db: Database, mounts: Mounts, files: Iterable[tuple[bytes, Row[Any]]], absent: Absent) -> None:
    """Mark those of some files that are gone, and count them and the unreachable ones in `absent`."""
    missing = _split(mounts, [(path, row) for path, row in files if _exists(path) is not True], absent)

    def mark() -> None:
        with db.writing() as connection:
            connection.execute(sa.update(File).where(File.id.in_(missing)).values(missing_since=now()))

    if missing:
        db.retry(mark)


def _split(mounts: Mounts, not_found: Sequence[tuple[bytes, Row[Any]]], absent: Absent) -> list[int]:
    """Return the ids of the files that are gone, and count them and the others in `absent`."""
    folders: defaultdict[bytes, list[tuple[bytes, Row[Any]]]] = defaultdict(list)
    for path, row in not_found:
        folders[os.path.dirname(path)].append((path, row))
    missing: list[int] = []
    for folder, group in folders.items():
        before = mounts.of_nearest(folder)
        still = [(row, _exists(path)) for path, row in group]
        changing = before is None or before != mounts.of_nearest(folder)  # something is mounted at this moment
        for row, exists in still:
            if exists is False and not changing and row.mount == before:
                missing.append(row.id)
            elif not exists:
                absent.unreachable += 1
                absent.mounts.update([row.mount] if row.mount else [])
    absent.missing += len(missing)
    return missing


def _exists(path: bytes) -> bool | None:
    """Return whether there is anything at a path; None when that is not known."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # no permission, a dead server, a name that is too long
        return None
    return True


def _files_below(root: RootPath, path: bytes) -> sa.Select[Any]:
    """Return the query for the files of a root at or below a path that are not missing, with their mounts."""
    columns: tuple[Any, ...] = (File.id, File.path_bytes, File.path_hash, Mount.identity.label("mount"))
    query = sa.select(*columns).select_from(File).outerjoin(Mount, Mount.id == File.mount_id)
    return query.where(File.missing_since.is_(None), *at_or_below(root, path))


def at_or_below(root: RootPath, path: bytes, file: Any = File) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for a file to be in a root and at or below a path, which is absolute.

    `file` is `File` or an alias of it.
    """
    conditions: list[sa.ColumnElement[bool]] = [file.root_id == root.id]
    if is_below(path, root.path) and path != root.path:
        below = path[len(root.path.rstrip(b"/")) + 1 :]
        inside = sa.and_(file.path_bytes > below + b"/", file.path_bytes < below + b"0")  # '0' follows '/'
        conditions.append(sa.or_(file.path_bytes == below, inside))
    return conditions


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
