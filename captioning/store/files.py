"""Roots and files: what a walk found where, and which of it needs a caption."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from captioning.paths import hash_of, is_below, text_of
from captioning.store.chunks import enqueue, lock_job, requeue
from captioning.store.database import Database, insert_or_ignore, now
from captioning.store.schema import Caption, Chunk, File, Item, Model, Root
from captioning.values import ChunkState, ItemState, Source


@dataclass(frozen=True)
class FoundFile:
    """A file below a root as a walk saw it."""

    path: bytes
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class ReusePolicy:
    """Which existing captions make a file known, so that a job does not caption it again."""

    model_id: int
    model_name: str
    stale: bool  # captions by an older bundle of the same name do not count
    force: bool  # no caption counts


@dataclass(frozen=True)
class Registered:
    """The result of registering some files."""

    file_ids: tuple[int, ...]
    new: int  # files that got an item in the job
    known: int  # files that need no work


@dataclass(frozen=True)
class RootPath:
    """A root and its path."""

    id: int
    path: bytes


def roots(db: Database) -> list[RootPath]:
    """Return all roots, the deepest first: a file belongs to the first root in this list that contains it."""
    with db.reading() as connection:
        rows = connection.execute(sa.select(Root.id, Root.path_bytes)).all()
    return sorted((RootPath(*row) for row in rows), key=lambda root: -len(root.path))


def ensure_root(db: Database, path: bytes) -> None:
    """Make a folder a root, named after itself, unless it is a root or below one already."""
    with db.writing() as connection:
        while True:
            rows = connection.execute(sa.select(Root.path_bytes, Root.name)).all()
            if any(is_below(path, row.path_bytes) for row in rows):
                return
            wanted = text_of(path).rstrip("/").rpartition("/")[2] or "root"
            name = _free_name(wanted, {row.name for row in rows})
            row = {"name": name, "path": text_of(path), "path_bytes": path, "path_hash": hash_of(path)}
            insert_or_ignore(connection, Root, [row])  # another submit may take the name first: the loop tries the next


def _free_name(wanted: str, taken: set[str]) -> str:
    wanted = wanted.replace(",", "_").replace("=", "_")  # separators in CAPTIONING_ROOTS
    names = (wanted, *(f"{wanted}-{i}" for i in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def register(
    db: Database, job_id: int, root_id: int, found: Sequence[FoundFile], policy: ReusePolicy, chunk_size: int
) -> Registered:
    """Update files and a job's items to what a walk found, in one transaction.

    A file with a new size or time loses its link to content until a worker reads it. If it is an item of the job
    already, the item is queued again, unless it still waits for its first worker. Files of the same size are queued
    next to each other, so that copies of one image usually meet in one chunk.
    """
    with db.writing() as connection:
        lock_job(connection, job_id)
        ids, changed = _upsert(connection, root_id, found)
        file_ids = tuple(ids[hash_of(f.path)] for f in found)
        in_job = _matching(connection, sa.select(Item.file_id).where(Item.job_id == job_id), Item.file_id, file_ids)
        captioned = set() if policy.force else _captioned(connection, file_ids, policy)
        sizes = dict(zip(file_ids, (f.size for f in found), strict=True))
        todo = sorted((i for i in sizes if i not in in_job and i not in captioned), key=lambda i: (sizes[i], i))
        enqueue(connection, job_id, root_id, todo, chunk_size)
        outdated = _outdated_items(connection, job_id, in_job, changed) if in_job else []
        requeue(connection, job_id, root_id, outdated, chunk_size)
        return Registered(file_ids, len(todo), sum(i not in in_job for i in sizes) - len(todo))


def _upsert(connection: Connection, root_id: int, found: Sequence[FoundFile]) -> tuple[dict[bytes, int], set[int]]:
    """Insert new files and update changed ones; return the ids by path hash, and the ids of the changed files."""
    hashes = [hash_of(f.path) for f in found]
    wanted = sa.select(File.id, File.path_hash, File.size, File.mtime_ns, File.missing_since).where(
        File.root_id == root_id, File.path_hash.in_(hashes)
    )
    existing = {row.path_hash: row for row in connection.execute(wanted)}
    fresh = [(f, h) for f, h in zip(found, hashes, strict=True) if h not in existing]
    rows = [
        {
            "root_id": root_id,
            "path": text_of(f.path),
            "path_bytes": f.path,
            "path_hash": h,
            "size": f.size,
            "mtime_ns": f.mtime_ns,
        }
        for f, h in fresh
    ]
    insert_or_ignore(connection, File, rows)
    changed = [
        {"row": existing[h].id, "size": f.size, "mtime_ns": f.mtime_ns, "image_id": None, "missing_since": None}
        for f, h in zip(found, hashes, strict=True)
        if h in existing and (existing[h].size, existing[h].mtime_ns) != (f.size, f.mtime_ns)
    ]
    if changed:
        connection.execute(sa.update(File).where(File.id == sa.bindparam("row")), changed)
    returned = [row.id for row in existing.values() if row.missing_since is not None]
    if returned:
        connection.execute(sa.update(File).where(File.id.in_(returned)).values(missing_since=None))
    if fresh:
        existing |= {row.path_hash: row for row in connection.execute(wanted)}
    return {h: row.id for h, row in existing.items()}, {row["row"] for row in changed}


def _outdated_items(connection: Connection, job_id: int, file_ids: Iterable[int], changed: set[int]) -> list[int]:
    """Return the items of a job with a result, or a worker at work, for a file as it was before it changed.

    An item that is captioned though its file has no content was overtaken by a change that another submit recorded.
    Items that no worker has started need nothing: their file is read as it is by then.
    """
    query = sa.select(Item.id).join(File, File.id == Item.file_id).join(Chunk, Chunk.id == Item.chunk_id)
    query = query.where(Item.job_id == job_id)
    started = sa.or_(Item.state != ItemState.PENDING, Chunk.state == ChunkState.RUNNING)
    overtaken = sa.and_(Item.state.in_((ItemState.CAPTIONED, ItemState.REUSED)), File.image_id.is_(None))
    return sorted(
        _matching(connection, query.where(started), File.id, changed)
        | _matching(connection, query.where(overtaken), File.id, file_ids)
    )


def _matching(connection: Connection, query: sa.Select[Any], column: Any, values: Iterable[int]) -> set[int]:
    return set(connection.execute(query.where(column.in_(list(values)))).scalars())


def counts_as_captioned(policy: ReusePolicy) -> sa.ColumnElement[bool]:
    """Return, as SQL on a caption and its model, whether the caption makes the files of its image known."""
    by_model = Caption.model_id == policy.model_id if policy.stale else Model.name == policy.model_name
    return sa.or_(Caption.source == Source.HUMAN, by_model)


def _captioned(connection: Connection, file_ids: Sequence[int], policy: ReusePolicy) -> set[int]:
    query = (
        sa.select(File.id)
        .join(Caption, Caption.image_id == File.image_id)
        .outerjoin(Model, Model.id == Caption.model_id)
        .where(counts_as_captioned(policy))
    )
    return _matching(connection, query, File.id, file_ids)


def mark_missing(db: Database, folder: bytes, seen: "FileIdSet", page_size: int = 10_000) -> int:
    """Mark files below a folder that a complete walk did not see and that do not exist; return how many.

    Not seen is not enough: a walk skips what its filters exclude, hidden files, links and folders that it may not read.
    So most files of a large root may be unseen: they are looked up in pages of `page_size` rows.
    """
    marked = 0
    for root in roots(db):
        if not (is_below(root.path, folder) or is_below(folder, root.path)):
            continue
        wanted = sa.select(File.id, File.path_bytes, File.path_hash)
        wanted = wanted.where(File.root_id == root.id, File.missing_since.is_(None))
        if is_below(folder, root.path) and folder != root.path:
            below = folder[len(root.path.rstrip(b"/")) + 1 :] + b"/"
            wanted = wanted.where(File.path_bytes >= below, File.path_bytes < below[:-1] + b"0")  # '0' follows '/'
        for page in _pages(db, wanted, page_size):
            unseen = [row for row in page if row.id not in seen]
            missing = [row.id for row in unseen if not os.path.lexists(os.path.join(root.path, row.path_bytes))]
            if missing:
                with db.writing() as connection:
                    connection.execute(sa.update(File).where(File.id.in_(missing)).values(missing_since=now()))
            marked += len(missing)
    return marked


def _pages(db: Database, query: sa.Select[int, bytes, bytes], size: int) -> Iterator[Sequence[Row[int, bytes, bytes]]]:
    """Yield the files of one root that a query finds, in pages; the query selects id, path bytes and path hash.

    No transaction is open while the caller works on a page. The order is that of the unique index on root and
    path hash. With the order of ids, SQLite would sort all rows of the root for each page.
    """
    last_hash = b""
    while True:
        with db.reading() as connection:
            following = query.where(File.path_hash > last_hash).order_by(File.path_hash).limit(size)
            page = connection.execute(following).all()
        if not page:
            return
        yield page
        last_hash = page[-1].path_hash


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
