"""Forget files and jobs: remove their rows, and captions only on request. Nothing on disk is touched.

Rows go in pages, each in its own transaction, so that millions of them block nobody for long. A forget that is
interrupted has removed whole files; the same command removes the rest.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from captioning.errors import UsageError
from captioning.paths import is_below, text_of, unicode_forms
from captioning.store import jobs
from captioning.store.chunks import complete_job_if_done, lock_job, recount
from captioning.store.database import Database
from captioning.store.files import RootPath, roots
from captioning.store.presence import at_or_below
from captioning.store.schema import Caption, Chunk, File, Image, Item, Job
from captioning.values import ChunkState, Source

PAGE_SIZE = 2000  # files in one transaction


@dataclass(frozen=True)
class Scope:
    """What a forget removes: the files of a condition, and perhaps a job and captions."""

    condition: Callable[[Any], sa.ColumnElement[bool]]  # on `File` or an alias of it
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

    The path is absolute. It may be given in another Unicode form than the store has.
    """
    for form in unicode_forms(path):
        scope = Scope(functools.partial(_is_inside, roots(db), form))
        with db.reading() as connection:
            if connection.execute(sa.select(File.id).where(scope.files).limit(1)).first() is not None:
                return scope
    raise UsageError(f"nothing is registered at or below {text_of(path)}.")


def _is_inside(known_roots: Sequence[RootPath], path: bytes, file: Any) -> sa.ColumnElement[bool]:
    related = (root for root in known_roots if is_below(root.path, path) or is_below(path, root.path))
    return sa.or_(sa.false(), *(sa.and_(*at_or_below(root, path, file)) for root in related))


def scope_of_job(db: Database, job_id: int) -> Scope:
    """Return the scope of a job: its items, and the files that no other job lists. Raises UsageError for no job."""
    jobs.progress(db, job_id)

    def only_in_job(file: Any) -> sa.ColumnElement[bool]:
        own = sa.exists().where(Item.file_id == file.id, Item.job_id == job_id).correlate(file)
        other = sa.exists().where(Item.file_id == file.id, Item.job_id != job_id).correlate(file)
        return sa.and_(own, ~other)

    return Scope(only_in_job, job=job_id)


def count(db: Database, scope: Scope) -> Forgotten:
    """Count what `forget` would remove."""
    in_scope = sa.select(File.id).where(scope.files)
    own_items = Item.file_id.in_(in_scope) if scope.job is None else Item.job_id == scope.job
    items = sa.select(sa.func.count(), sa.func.count(Item.job_id.distinct())).where(own_items)
    with db.reading() as connection:
        n_files = connection.execute(sa.select(sa.func.count()).select_from(in_scope.subquery())).scalar_one()
        n_items, n_jobs = connection.execute(items).one()
        lonely = sa.select(File.image_id).where(scope.files, ~_has_file_outside(scope))
        own = sa.select(sa.func.count()).select_from(Caption).where(Caption.image_id.in_(lonely))
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
    return sa.true() if scope.human else Caption.source == Source.MACHINE


def forget(
    db: Database, scope: Scope, on_page: Callable[[int], None] = lambda files: None, page_size: int = PAGE_SIZE
) -> Forgotten:
    """Remove the rows of a scope; return how many. `on_page` is called with the number of files so far."""
    if scope.job is not None:
        db.retry(lambda: jobs.cancel(db, scope.job or 0))  # no worker writes to it from now on
    done = Forgotten(jobs=count(db, scope).jobs)
    while True:
        page = db.retry(lambda: _forget_page(db, scope, page_size))
        if page is None:
            break
        done = replace(
            done,
            files=done.files + page.files,
            items=done.items + page.items,
            captions=done.captions + page.captions,
        )
        on_page(done.files)
    if scope.job is not None:
        items = db.retry(lambda: _forget_job(db, scope.job or 0))
        done = replace(done, items=done.items + items, jobs=1)
    return done


def _forget_page(db: Database, scope: Scope, page_size: int) -> Forgotten | None:
    """Remove some files of the scope with their items; return None when there is none left."""
    with db.writing() as connection:
        rows = connection.execute(
            sa.select(File.id, File.image_id).where(scope.files).order_by(File.id).limit(page_size)
        ).all()
        if not rows:
            return None
        ids = [row.id for row in rows]
        items = _remove_items(connection, ids)
        connection.execute(sa.delete(File).where(File.id.in_(ids)))
        images = sorted({row.image_id for row in rows if row.image_id is not None})
        captions = _remove_captions(connection, scope, images) if scope.captions and images else 0
    return Forgotten(len(ids), items, captions=captions)


def _remove_items(connection: Connection, file_ids: Sequence[int]) -> int:
    """Remove the items of files from all jobs. Jobs that have nothing more to do are done."""
    own = Item.file_id.in_(file_ids)
    job_ids = sorted(connection.execute(sa.select(Item.job_id).where(own).distinct()).scalars())
    for job_id in job_ids:  # in order, as everywhere: two processes never wait for each other
        lock_job(connection, job_id)
    chunk_ids = connection.execute(sa.select(Item.chunk_id).where(own).distinct()).scalars().all()
    locked = sa.select(Chunk.id).where(Chunk.id.in_(chunk_ids)).order_by(Chunk.id).with_for_update()
    connection.execute(locked).all()
    removed = connection.execute(sa.delete(Item).where(own)).rowcount
    for chunk_id in chunk_ids:
        recount(connection, chunk_id)
    finished = Chunk.size == Chunk.captioned + Chunk.reused + Chunk.failed
    idle = sa.and_(Chunk.id.in_(chunk_ids), Chunk.state == ChunkState.PENDING, finished)
    connection.execute(sa.update(Chunk).where(idle).values(state=ChunkState.DONE, lease_until=None))
    for job_id in job_ids:
        complete_job_if_done(connection, job_id)
    return int(removed)


def _remove_captions(connection: Connection, scope: Scope, image_ids: Sequence[int]) -> int:
    """Remove captions of content that no file has any more, and content that has no caption any more."""
    has_file = sa.exists().where(File.image_id == Image.id).correlate(Image)
    orphans = connection.execute(sa.select(Image.id).where(Image.id.in_(image_ids), ~has_file)).scalars().all()
    removed = connection.execute(sa.delete(Caption).where(Caption.image_id.in_(orphans), _removable(scope))).rowcount
    has_caption = sa.exists().where(Caption.image_id == Image.id).correlate(Image)
    connection.execute(sa.delete(Image).where(Image.id.in_(orphans), ~has_caption))
    return int(removed)


def _forget_job(db: Database, job_id: int) -> int:
    """Remove a job with its remaining items; return how many these were."""
    with db.writing() as connection:
        lock_job(connection, job_id)
        removed = connection.execute(sa.delete(Item).where(Item.job_id == job_id)).rowcount
        connection.execute(sa.delete(Chunk).where(Chunk.job_id == job_id))
        connection.execute(sa.delete(Job).where(Job.id == job_id))
    return int(removed)
