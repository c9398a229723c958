"""Roots and files: what was found where, and which of it needs work."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from captioning.paths import hash_of, is_below, text_of
from captioning.store.database import Database, now
from captioning.store.schema import Base, Caption, Chunk, File, Item, Job, Model, Root
from captioning.values import ChunkState, ItemState, JobState, Source


@dataclass(frozen=True)
class Found:
    """A file below a root as a walk saw it."""

    path: bytes
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Known:
    """Which captions make a file need no work."""

    model_id: int
    model_name: str
    stale: bool  # captions by an older bundle of the same name don't count
    force: bool  # none counts


@dataclass(frozen=True)
class Registered:
    """What became of a batch of found files."""

    file_ids: tuple[int, ...]
    new: int  # that got an item in the job
    known: int


def insert_or_nothing(connection: Connection, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows; those that are there already stay as they are."""
    if rows:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        connection.execute(insert(table).on_conflict_do_nothing(), rows)


@dataclass(frozen=True)
class RootPlace:
    """A root and where it lies."""

    id: int
    path: bytes


def roots(db: Database) -> list[RootPlace]:
    """Return all roots, the deepest first: the first that holds a path is the one it belongs to."""
    with db.reading() as connection:
        rows = connection.execute(sa.select(Root.id, Root.path_bytes)).all()
    return sorted((RootPlace(*row) for row in rows), key=lambda root: -len(root.path))


def ensure_root(db: Database, path: bytes) -> None:
    """Make a folder a root, named after itself, unless it lies in one."""
    with db.writing() as connection:
        while True:
            rows = connection.execute(sa.select(Root.path_bytes, Root.name)).all()
            if any(is_below(path, row.path_bytes) for row in rows):
                return
            wish = text_of(path).rstrip("/").rpartition("/")[2] or "root"
            name = _free_name(wish, {row.name for row in rows})
            row = {"name": name, "path": text_of(path), "path_bytes": path, "path_hash": hash_of(path)}
            insert_or_nothing(connection, Root, [row])  # another may just have taken the name: then again


def _free_name(wish: str, taken: set[str]) -> str:
    wish = wish.replace(",", "_").replace("=", "_")  # they mean something in CAPTIONING_ROOTS
    names = (wish, *(f"{wish}-{i}" for i in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def register(
    db: Database, job_id: int, root_id: int, found: Sequence[Found], known: Known, chunk_size: int
) -> Registered:
    """Bring files and a job's items up to what was found, in one transaction.

    A file whose size or time changed loses its content until a worker reads it; if it is in the job already,
    whether that is through with it or not, it gets another turn. Files of one size go to one chunk, so that
    copies meet.
    """
    with db.writing() as connection:
        lock_job(connection, job_id)  # one registers at a time
        ids, changed = _upsert(connection, root_id, found)
        file_ids = tuple(ids[hash_of(f.path)] for f in found)
        mine = _in(connection, sa.select(Item.file_id).where(Item.job_id == job_id), Item.file_id, file_ids)
        done = set() if known.force else _captioned(connection, file_ids, known)
        sizes = dict(zip(file_ids, (f.size for f in found), strict=True))
        todo = sorted((i for i in sizes if i not in mine and i not in done), key=lambda i: (sizes[i], i))
        _queue(connection, job_id, root_id, todo, chunk_size)
        again = _outdated(connection, job_id, mine, changed) if mine else []
        requeue(connection, job_id, root_id, again, chunk_size)
        return Registered(file_ids, len(todo), sum(i not in mine for i in sizes) - len(todo))


def _upsert(connection: Connection, root_id: int, found: Sequence[Found]) -> tuple[dict[bytes, int], set[int]]:
    """Insert new files, update changed ones; return the ids by path hash, and which changed."""
    hashes = [hash_of(f.path) for f in found]
    wanted = sa.select(File.id, File.path_hash, File.size, File.mtime_ns, File.missing_since).where(
        File.root_id == root_id, File.path_hash.in_(hashes)
    )
    there = {row.path_hash: row for row in connection.execute(wanted)}
    fresh = [(f, h) for f, h in zip(found, hashes, strict=True) if h not in there]
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
    insert_or_nothing(connection, File, rows)
    changed = [
        {"row": there[h].id, "size": f.size, "mtime_ns": f.mtime_ns, "image_id": None, "missing_since": None}
        for f, h in zip(found, hashes, strict=True)
        if h in there and (there[h].size, there[h].mtime_ns) != (f.size, f.mtime_ns)
    ]
    if changed:
        connection.execute(sa.update(File).where(File.id == sa.bindparam("row")), changed)
    back = [row.id for row in there.values() if row.missing_since is not None]
    if back:
        connection.execute(sa.update(File).where(File.id.in_(back)).values(missing_since=None))
    if fresh:
        there |= {row.path_hash: row for row in connection.execute(wanted)}
    return {h: row.id for h, row in there.items()}, {row["row"] for row in changed}


def _outdated(connection: Connection, job_id: int, file_ids: Iterable[int], changed: set[int]) -> list[int]:
    """Return those items of a job that say something of files as they were before they changed.

    One that is captioned though its file has no content was overtaken by a change that another submit noted. What
    no worker has begun is read as it is by then.
    """
    query = sa.select(Item.id).join(File, File.id == Item.file_id).join(Chunk, Chunk.id == Item.chunk_id)
    query = query.where(Item.job_id == job_id)
    begun = sa.or_(Item.state != ItemState.PENDING, Chunk.state == ChunkState.RUNNING)
    overtaken = sa.and_(Item.state.in_((ItemState.CAPTIONED, ItemState.REUSED)), File.image_id.is_(None))
    return sorted(
        _in(connection, query.where(begun), File.id, changed)
        | _in(connection, query.where(overtaken), File.id, file_ids)
    )


def _in(connection: Connection, query: sa.Select[Any], column: Any, values: Iterable[int]) -> set[int]:
    return set(connection.execute(query.where(column.in_(list(values)))).scalars())


def _captioned(connection: Connection, file_ids: Sequence[int], known: Known) -> set[int]:
    by_model = Caption.model_id == known.model_id if known.stale else Model.name == known.model_name
    query = (
        sa.select(File.id)
        .join(Caption, Caption.image_id == File.image_id)
        .outerjoin(Model, Model.id == Caption.model_id)
        .where(sa.or_(Caption.source == Source.HUMAN, by_model))
    )
    return _in(connection, query, File.id, file_ids)


def _queue(connection: Connection, job_id: int, root_id: int, file_ids: Sequence[int], chunk_size: int) -> None:
    """Put files to a job as pending items, in new chunks after its last."""
    if not file_ids:
        return
    items = [
        {"job_id": job_id, "file_id": file_id, "chunk_id": chunk_id, "state": ItemState.PENDING}
        for chunk_id, part in _new_chunks(connection, job_id, root_id, file_ids, chunk_size)
        for file_id in part
    ]
    connection.execute(sa.insert(Item), items)


def requeue(connection: Connection, job_id: int, root_id: int, item_ids: Sequence[int], chunk_size: int) -> None:
    """Make items of a job pending again, in new chunks after its last. The job is locked by who calls.

    A worker that has one of them in hand finds, when it commits, that it is not in its chunk any more.
    """
    if not item_ids:
        return
    for chunk_id, part in _new_chunks(connection, job_id, root_id, item_ids, chunk_size):
        theirs = sa.select(Item.chunk_id).where(Item.id.in_(part))
        old = sa.select(Chunk.id).where(Chunk.id.in_(theirs)).order_by(Chunk.id).with_for_update()
        losing = connection.execute(old).scalars().all()
        fresh = {"chunk_id": chunk_id, "state": ItemState.PENDING, "reason": None, "detail": None, "crashes": 0}
        connection.execute(sa.update(Item).where(Item.id.in_(part)).values(**fresh, finished_at=None))
        for losing_id in losing:
            _recount(connection, losing_id)


def lock_job(connection: Connection, job_id: int) -> bool:
    """Keep others from numbering chunks of a job, or calling it done, until our commit; tell whether there is one.

    What only refers to its row, as new items do, goes on meanwhile.
    """
    mine = sa.select(Job.id).where(Job.id == job_id).with_for_update(key_share=True)
    return connection.execute(mine).scalar() is not None


def last_chunk(connection: Connection, job_id: int) -> int:
    """Return the number of a job's last chunk, 0 when it has none. The job is locked by who calls."""
    return connection.execute(sa.select(sa.func.max(Chunk.seq)).where(Chunk.job_id == job_id)).scalar() or 0


def _new_chunks(
    connection: Connection, job_id: int, root_id: int, ids: Sequence[int], chunk_size: int
) -> Iterator[tuple[int, Sequence[int]]]:
    """Make chunks for so many ids, in order; yield each chunk with those that go there. A job that was done isn't."""
    last = last_chunk(connection, job_id)
    parts = [ids[i : i + chunk_size] for i in range(0, len(ids), chunk_size)]
    rows = [
        {"job_id": job_id, "root_id": root_id, "seq": last + n, "state": ChunkState.PENDING, "size": len(part)}
        for n, part in enumerate(parts, start=1)
    ]
    made = sa.insert(Chunk).returning(Chunk.id, sort_by_parameter_order=True)
    chunk_ids = connection.execute(made, rows).scalars().all()
    again = sa.update(Job).where(Job.id == job_id, Job.state == JobState.DONE)
    connection.execute(again.values(state=JobState.ACTIVE, finished_at=None))
    yield from zip(chunk_ids, parts, strict=True)


def _recount(connection: Connection, chunk_id: int) -> None:
    """Make a chunk that lost items agree with those that it still has; what the model did for it stays done."""
    mine = sa.select(sa.func.count()).where(Item.chunk_id == chunk_id)
    decided = (ItemState.CAPTIONED, ItemState.REUSED, ItemState.FAILED)
    counts = {str(state): mine.where(Item.state == state).scalar_subquery() for state in decided}
    values = {"size": mine.scalar_subquery()} | counts
    connection.execute(sa.update(Chunk).where(Chunk.id == chunk_id).values(**values))


def mark_missing(db: Database, folder: bytes, seen: "SeenFiles") -> int:
    """Mark the files below a folder that a whole walk of it didn't see and that aren't there; return how many.

    Not seen is not enough: a walk passes over hidden files, links and folders that it may not read.
    """
    marked = 0
    for root in roots(db):
        if not (is_below(root.path, folder) or is_below(folder, root.path)):
            continue
        wanted = sa.select(File.id, File.path_bytes).where(File.root_id == root.id, File.missing_since.is_(None))
        if is_below(folder, root.path) and folder != root.path:
            below = folder[len(root.path.rstrip(b"/")) + 1 :] + b"/"
            wanted = wanted.where(File.path_bytes >= below, File.path_bytes < below[:-1] + b"0")  # '0' follows '/'
        with db.reading() as connection:
            rows = connection.execution_options(yield_per=10_000).execute(wanted)
            unseen = [row for row in rows if row.id not in seen]
        gone = [row.id for row in unseen if not os.path.lexists(os.path.join(root.path, row.path_bytes))]
        for start in range(0, len(gone), 1000):
            with db.writing() as connection:
                some = sa.update(File).where(File.id.in_(gone[start : start + 1000]))
                connection.execute(some.values(missing_since=now()))
        marked += len(gone)
    return marked


class SeenFiles:
    """A set of file ids as bits: ten million take a megabyte or so."""

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
