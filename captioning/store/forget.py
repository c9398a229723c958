"""Forget files and jobs: remove their rows, and captions only on request. Nothing on disk is touched.

Rows go in pages, each in its own transaction, so that millions of them block nobody for long. A forget that is
interrupted has removed whole files; the same command removes the rest.
"""

import functools
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from captioning.errors import StoreUnavailable, UsageError
from captioning.paths import possible_paths, text_of
from captioning.store import jobs
from captioning.store.bulk import insert_or_ignore
from captioning.store.chunks import complete_job_if_done, lock_job, recount
from captioning.store.database import Database
from captioning.store.files import RootPath, at_or_below, find_file, roots
from captioning.store.schema import Attention, Caption, Chunk, Edit, Features, File, ForgottenJob, Image, Item, Job
from captioning.values import ChunkState, Source

PAGE_SIZE = 2000  # files in one transaction
_CHUNKS_PER_PAGE = 50  # of a job that is removed


@dataclass(frozen=True)
class Scope:
    """What a forget removes: the files of a condition, and perhaps a job and captions."""

    condition: Callable[[Any], sa.ColumnElement[bool]]  # on `File` or an alias of it
    path: bytes = b""  # as the store knows it; empty for a job
    is_file: bool = False  # whether the path is that of a file
    job: int | None = None
    captions: bool = False  # also the captions of content that no other file has
    human: bool = False  # also those that people wrote or imported

    @property
    def files(self) -> sa.ColumnElement[bool]:
        return self.condition(File)


@dataclass(frozen=True)
class Forgotten:
    """How many rows a forget removes, or would remove."""

    files: int = 0
    items: int = 0  # places in jobs
    jobs: int = 0  # jobs that list the files
    captions: int = 0
    kept_captions: int = 0  # of content that no other file has


def scope_of_path(db: Database, path: bytes) -> Scope:
    """Return the scope of a file, or of a folder and all below it. Raises UsageError when nothing is there.

    The path is one that a person names: see `possible_paths`.
    """
    candidates = possible_paths(path)
    for candidate in candidates:
        file_id = find_file(db, candidate)
        if file_id is not None:
            return Scope(functools.partial(_is_file, file_id), candidate, is_file=True)
    known_roots = roots(db)
    for candidate in candidates:
        scope = Scope(functools.partial(_is_below, known_roots, candidate), candidate)
        with db.reading() as connection:
            if connection.execute(sa.select(File.id).where(scope.files).limit(1)).first() is not None:
                return scope
    raise UsageError(f"nothing is registered at or below {text_of(candidates[0])}.")


def _is_file(file_id: int, file: Any) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = file.id == file_id
    return condition


def _is_below(known_roots: Sequence[RootPath], path: bytes, file: Any) -> sa.ColumnElement[bool]:
    return sa.or_(sa.false(), *(at_or_below(root, path, file) for root in known_roots))


def scope_of_job(db: Database, job_id: int) -> Scope:
    """Return the scope of a job: its items, and the files that no other job lists. Raises UsageError for no job."""
    jobs.progress(db, job_id)
    return Scope(functools.partial(_is_only_in_job, job_id), job=job_id)


def _is_only_in_job(job_id: int, file: Any) -> sa.ColumnElement[bool]:
    own = file.id.in_(sa.select(Item.file_id).where(Item.job_id == job_id))
    other = sa.exists().where(Item.file_id == file.id, Item.job_id != job_id).correlate(file)
    return sa.and_(own, ~other)


def count(db: Database, scope: Scope) -> Forgotten:
    """Count what `forget` would remove."""
    in_scope = sa.select(File.id).where(scope.files)
    own_items = Item.file_id.in_(in_scope) if scope.job is None else Item.job_id == scope.job
    items = sa.select(sa.func.count(), sa.func.count(Item.job_id.distinct())).where(own_items)
    with db.reading() as connection:
        n_files = connection.execute(sa.select(sa.func.count()).select_from(in_scope.subquery())).scalar_one()
        n_items, n_jobs = connection.execute(items).one()
        unshared = sa.select(File.image_id).where(scope.files, ~_has_file_outside(scope))
        own = sa.select(sa.func.count()).select_from(Caption).where(Caption.image_id.in_(unshared))
        total = connection.execute(own).scalar_one()
        removed = connection.execute(own.where(_removable(scope))).scalar_one()
    return Forgotten(int(n_files), int(n_items), int(n_jobs), int(removed), int(total - removed))


def _has_file_outside(scope: Scope) -> sa.ColumnElement[bool]:
    """Return the condition for a file of the scope to share its content with a file that is not in the scope."""
    other = aliased(File)
    return sa.exists().where(other.image_id == File.image_id, ~scope.condition(other)).correlate(File)


def _removable(scope: Scope) -> sa.ColumnElement[bool]:
    if not scope.captions:
        return sa.false()
    return sa.true() if scope.human else sa.and_(Caption.source == Source.MACHINE, Caption.original.is_(None))


def forget(
    db: Database, scope: Scope, on_page: Callable[[int], None] = lambda files: None, page_size: int = PAGE_SIZE
) -> Forgotten:
    """Remove the rows of a scope; return how many. `on_page` is called with the number of files so far."""
    if scope.job is not None:
        db.retry(lambda: jobs.cancel(db, scope.job or 0))  # no worker writes to it from now on
    done, job_ids = Forgotten(), set[int]()
    file_ids = db.retry(lambda: _file_ids(db, scope))
    for start in range(0, len(file_ids), page_size):
        page = file_ids[start : start + page_size]
        removed, listed_in = db.retry(functools.partial(_forget_files, db, scope, page))
        job_ids |= listed_in
        done = replace(
            done,
            files=done.files + removed.files,
            items=done.items + removed.items,
            jobs=len(job_ids),
            captions=done.captions + removed.captions,
        )
        on_page(done.files)
    if scope.job is not None:
        done = replace(done, items=done.items + _forget_job(db, scope.job), jobs=1)
    return done


def _file_ids(db: Database, scope: Scope) -> Sequence[int]:
    """Return the ids of the files of a scope, 8 bytes each: one search for all pages."""
    query = sa.select(File.id).where(scope.files).order_by(File.id).execution_options(yield_per=10_000)
    with db.reading() as connection:
        return array("q", connection.execute(query).scalars())


def _forget_files(db: Database, scope: Scope, file_ids: Sequence[int]) -> tuple[Forgotten, set[int]]:
    """Remove files, with their items, if they are still in the scope. Also returns the jobs that listed them."""
    with db.writing() as connection:
        job_ids, image_ids = _lock(connection, file_ids)
        query = sa.select(File.id, File.image_id).where(File.id.in_(file_ids), scope.files)
        rows = connection.execute(query).all()
        file_ids = [row.id for row in rows]
        items, listed_in = _remove_items(connection, file_ids)
        if not (listed_in <= job_ids and {row.image_id for row in rows} <= {*image_ids, None}):
            raise StoreUnavailable("a worker or a submit has just changed files that are forgotten")  # `retry` repeats
        captions = _release_captions(connection, scope, file_ids)
        connection.execute(sa.delete(File).where(File.id.in_(file_ids)))
        captions += _remove_captions(connection, scope, image_ids) if scope.captions else 0
    return Forgotten(len(rows), items, captions=captions), listed_in


def _lock(connection: Connection, file_ids: Sequence[int]) -> tuple[set[int], Sequence[int]]:
    """Lock what a forget of files changes; return the jobs that list them, and their images.

    The order is that of workers and submits, so that they do not wait for each other in a circle: jobs, chunks, images,
    files.
    """
    own = Item.file_id.in_(file_ids)
    job_ids = sorted(connection.execute(sa.select(Item.job_id).where(own).distinct()).scalars())
    for job_id in job_ids:
        lock_job(connection, job_id)
    for key, wanted in (
        (Chunk.id, sa.select(Item.chunk_id).where(own)),
        (Image.id, sa.select(File.image_id).where(File.id.in_(file_ids))),
        (File.id, file_ids),
    ):
        locked = connection.execute(sa.select(key).where(key.in_(wanted)).order_by(key).with_for_update())
        if key is Image.id:
            image_ids = locked.scalars().all()
    return set(job_ids), image_ids


def _remove_items(connection: Connection, file_ids: Sequence[int]) -> tuple[int, set[int]]:
    """Remove the items of files from all jobs, which are returned. Jobs that have nothing more to do are done."""
    own = Item.file_id.in_(file_ids)
    job_ids = set(connection.execute(sa.select(Item.job_id).where(own).distinct()).scalars())
    chunk_ids = connection.execute(sa.select(Item.chunk_id).where(own).distinct()).scalars().all()
    removed = connection.execute(sa.delete(Item).where(own)).rowcount
    for chunk_id in chunk_ids:
        recount(connection, chunk_id)
    finished = Chunk.size == Chunk.captioned + Chunk.reused + Chunk.failed
    idle = sa.and_(Chunk.id.in_(chunk_ids), Chunk.state == ChunkState.PENDING, finished)
    connection.execute(sa.update(Chunk).where(idle).values(state=ChunkState.DONE, lease_until=None))
    for job_id in sorted(job_ids):
        complete_job_if_done(connection, job_id)
    return int(removed), job_ids


def _release_captions(connection: Connection, scope: Scope, file_ids: Sequence[int]) -> int:
    """Leave captions that people wrote for files to the content; return how many of content without files went."""
    connection.execute(sa.update(Edit).where(Edit.file_id.in_(file_ids)).values(file_id=None))
    of_files = Caption.file_id.in_(file_ids)
    removed = 0
    if scope.captions and scope.human:  # of content that a file had before, and no file has now
        has_file = sa.exists().where(File.image_id == Caption.image_id).correlate(Caption)
        removed = _delete(connection, sa.select(Caption.id).where(of_files, ~has_file))
    connection.execute(sa.update(Caption).where(of_files).values(file_id=None))
    return removed


def _delete(connection: Connection, chosen: sa.Select[Any]) -> int:
    """Delete captions with all that is about them; return how many."""
    ids = connection.execute(chosen).scalars().all()
    for table in (Edit, Attention):
        connection.execute(sa.delete(table).where(table.caption_id.in_(ids)))
    return int(connection.execute(sa.delete(Caption).where(Caption.id.in_(ids))).rowcount)


def _remove_captions(connection: Connection, scope: Scope, image_ids: Sequence[int]) -> int:
    """Remove captions of content that no file has any more, and content that has no caption any more."""
    has_file = sa.exists().where(File.image_id == Image.id).correlate(Image)
    orphans = connection.execute(sa.select(Image.id).where(Image.id.in_(image_ids), ~has_file)).scalars().all()
    removed = _delete(connection, sa.select(Caption.id).where(Caption.image_id.in_(orphans), _removable(scope)))
    has_caption = sa.exists().where(Caption.image_id == Image.id).correlate(Image)
    unused = sa.select(Image.id).where(Image.id.in_(orphans), ~has_caption)
    connection.execute(sa.delete(Features).where(Features.image_id.in_(unused)))
    connection.execute(sa.delete(Image).where(Image.id.in_(orphans), ~has_caption))
    return removed


def _forget_job(db: Database, job_id: int) -> int:
    """Remove a job with its remaining items, some chunks at a time; return how many items these were."""
    items = 0
    while (removed := db.retry(lambda: _forget_chunks(db, job_id))) is not None:
        items += removed
    return items


def _forget_chunks(db: Database, job_id: int) -> int | None:
    """Remove some chunks of a job; return how many items they had. Without any chunk, remove the job; return None."""
    with db.writing() as connection:
        lock_job(connection, job_id)
        some = sa.select(Chunk.id).where(Chunk.job_id == job_id).order_by(Chunk.id).limit(_CHUNKS_PER_PAGE)
        chunk_ids = connection.execute(some.with_for_update()).scalars().all()
        if not chunk_ids:
            connection.execute(sa.delete(Job).where(Job.id == job_id))
            insert_or_ignore(connection, ForgottenJob, [{"id": job_id}])
            return None
        removed = connection.execute(sa.delete(Item).where(Item.chunk_id.in_(chunk_ids))).rowcount
        connection.execute(sa.delete(Chunk).where(Chunk.id.in_(chunk_ids)))
    return int(removed)
