"""Jobs: what was asked for, how far it is, and what people may do to it."""

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.store.chunks import complete_job_if_done, lock_job, requeue
from captioning.store.database import Database, insert_or_ignore, now
from captioning.store.schema import Chunk, File, Item, Job, Model, Root, is_failed, is_open
from captioning.values import ChunkState, DecodeOptions, ItemState, JobState, Reason

_UNFINISHED = (JobState.ACTIVE, JobState.PAUSED)
FATAL_ATTEMPTS = 4  # workers that died with an image alone in hand, before people are told


@dataclass(frozen=True)
class JobRequest:
    """What a `submit` asks for."""

    key: str
    name: str
    options: DecodeOptions
    priority: int = 0
    force: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a job is, in images."""

    job: int
    name: str
    state: str
    model: str
    model_digest: str
    registered: bool
    priority: int
    total: int  # queued: new
    captioned: int
    reused: int
    failed: int
    model_runs: int
    known: int
    skipped: dict[str, int]
    created_at: float
    finished_at: float | None

    @property
    def done(self) -> int:
        return self.captioned + self.reused + self.failed

    @property
    def is_finished(self) -> bool:
        """Whether no worker will touch it any more, unless somebody says so."""
        return self.state in (JobState.DONE, JobState.CANCELLED)


def register_model(db: Database, bundle: Bundle, *, default: str) -> int:
    """Note that a model exists, and which name is the default; return its row's id."""
    with db.writing() as connection:
        at = connection.execute(sa.select(now())).scalar_one()
        row = {"digest": bundle.digest, "name": bundle.name, "card": bundle.card, "created_at": at}
        insert_or_ignore(connection, Model, [row])
        wrong = Model.is_default != (Model.name == default)
        connection.execute(sa.update(Model).where(wrong).values(is_default=Model.name == default))
        return connection.execute(sa.select(Model.id).where(Model.digest == bundle.digest)).scalar_one()


def open_job(db: Database, request: JobRequest, model_id: int) -> tuple[int, bool]:
    """Return the unfinished job of the same key, else a new one; and whether it is continued."""
    with db.writing() as connection:
        alone = sa.select(Model.id).where(Model.id == model_id).with_for_update(key_share=True)  # two submits at once
        connection.execute(alone)
        going = sa.select(Job.id).where(Job.key == request.key, Job.state.in_(_UNFINISHED))
        going = going.order_by(Job.registered, Job.id.desc())  # a walk that was cut off first: nothing else ends it
        there = connection.execute(going).scalars().first()
        if there is not None:
            connection.execute(sa.update(Job).where(Job.id == there).values(priority=request.priority))
            return there, True
        values = {
            "key": request.key,
            "name": request.name,
            "options": asdict(request.options),
            "options_digest": request.options.digest,
            "model_id": model_id,
            "force": request.force,
            "priority": request.priority,
            "state": JobState.ACTIVE,
            "skipped": {},
            "created_at": now(),
        }
        return connection.execute(sa.insert(Job).values(**values).returning(Job.id)).scalar_one(), False


def close_registration(db: Database, job_id: int, known: int, skipped: dict[str, int]) -> None:
    """Note that a job's walk has ended; a job without open work is done by that."""
    with db.writing() as connection:
        values = {"registered": True, "known": known, "skipped": skipped}
        connection.execute(sa.update(Job).where(Job.id == job_id).values(**values))
        complete_job_if_done(connection, job_id)


def progress(db: Database, job_id: int | None = None, limit: int | None = None) -> list[Progress]:
    """Return where jobs stand, the newest first; one job when it is named. Raises UsageError when there is none."""
    sums = [sa.func.coalesce(sa.func.sum(column), 0).label(column.key) for column in _COUNTS]
    counting = sa.select(Chunk.job_id, *sums).group_by(Chunk.job_id)
    jobs = sa.select(Job.id).order_by(Job.id.desc()).limit(limit)
    if job_id is not None:
        jobs = sa.select(Job.id).where(Job.id == job_id)
    counted = counting.where(Chunk.job_id.in_(jobs)).subquery()
    query = (
        sa.select(
            Job, Model.name.label("model"), Model.digest, *[sa.func.coalesce(counted.c[c.key], 0) for c in _COUNTS]
        )
        .join(Model, Model.id == Job.model_id)
        .outerjoin(counted, counted.c.job_id == Job.id)
        .where(Job.id.in_(jobs))
        .order_by(Job.id.desc())
    )
    with db.reading() as connection:
        rows = connection.execute(query).all()
    if job_id is not None and not rows:
        raise UsageError(f"there is no job {job_id}; `producer jobs` lists them.")
    return [_progress(row) for row in rows]


_COUNTS = (Chunk.size, Chunk.captioned, Chunk.reused, Chunk.failed, Chunk.model_runs)


def _progress(row: Row[Any]) -> Progress:
    size, captioned, reused, failed, runs = (int(n) for n in row[-5:])
    return Progress(
        row.id, row.name, row.state, row.model, row.digest, row.registered, row.priority,
        size, captioned, reused, failed, runs, row.known, row.skipped, row.created_at, row.finished_at,
    )  # fmt: skip


def count_decided(db: Database) -> int:
    """Return how many images are decided, in all jobs."""
    decided = sa.func.sum(Chunk.captioned + Chunk.reused + Chunk.failed)
    with db.reading() as connection:
        return int(connection.execute(sa.select(decided)).scalar() or 0)


def newest_job(db: Database) -> int:
    """Return the newest job's number. Raises UsageError when there is none."""
    with db.reading() as connection:
        newest = connection.execute(sa.select(sa.func.max(Job.id))).scalar()
    if newest is None:
        raise UsageError("there are no jobs yet; `producer submit FOLDER` begins one.")
    return int(newest)


# -- what people do to a job --


def pause(db: Database, job_id: int) -> str:
    """Stop handing out a job's chunks; those in hand are finished. Return the state it is in."""
    return _move(db, job_id, (JobState.ACTIVE,), JobState.PAUSED)


def resume(db: Database, job_id: int) -> str:
    """Hand out a paused or cancelled job's chunks again."""
    return _move(db, job_id, (JobState.PAUSED, JobState.CANCELLED), JobState.ACTIVE)


def cancel(db: Database, job_id: int) -> str:
    """Stop a job, also what is in hand: a worker's next commit is refused by the fence."""
    return _move(db, job_id, _UNFINISHED, JobState.CANCELLED)


def _move(db: Database, job_id: int, sources: tuple[JobState, ...], target: JobState) -> str:
    with db.writing() as connection:
        moved = sa.update(Job).where(Job.id == job_id, Job.state.in_(sources)).values(state=target, finished_at=None)
        connection.execute(moved)
        if target == JobState.CANCELLED:
            mine = sa.update(Chunk).where(Chunk.job_id == job_id, Chunk.state == ChunkState.RUNNING)
            connection.execute(mine.values(state=ChunkState.PENDING, fence=Chunk.fence + 1, lease_until=None))
        if target == JobState.ACTIVE:
            complete_job_if_done(connection, job_id)
        state = connection.execute(sa.select(Job.state).where(Job.id == job_id)).scalar()
    if state is None:
        raise UsageError(f"there is no job {job_id}; `producer jobs` lists them.")
    return str(state)


def retry(db: Database, job_id: int, reason: Reason | None, chunk_size: int) -> int:
    """Queue a job's failed items again, all or those with one reason; return how many."""
    with db.writing() as connection:
        if not lock_job(connection, job_id):
            raise UsageError(f"there is no job {job_id}; `producer jobs` lists them.")
        failed = (
            sa.select(Item.id, File.root_id)
            .join(File, File.id == Item.file_id)
            .where(Item.job_id == job_id, is_failed())
            .order_by(File.root_id, Item.id)
        )
        if reason is not None:
            failed = failed.where(Item.reason == reason)
        rows = connection.execute(failed).all()
        for root_id in sorted({row.root_id for row in rows}):
            ids = [row.id for row in rows if row.root_id == root_id]
            requeue(connection, job_id, root_id, ids, chunk_size)
    return len(rows)


# -- what people ask about a job --


@dataclass(frozen=True)
class Failure:
    """An image without a caption, and why."""

    job: int
    path: str
    reason: str
    detail: str


def failures(db: Database, job_id: int | None) -> list[Failure]:
    """Return the failed items of a job, or of all, in the order of their paths."""
    query = (
        sa.select(Item.job_id, Root.path.label("root"), File.path, Item.reason, Item.detail)
        .join(File, File.id == Item.file_id)
        .join(Root, Root.id == File.root_id)
        .where(is_failed())
        .order_by(Item.job_id, Root.path, File.path)
    )
    if job_id is not None:
        progress(db, job_id)  # says so when there is none
        query = query.where(Item.job_id == job_id, Item.reason.is_not(None))  # by which SQLite sees the better index
    with db.reading() as connection:
        rows = connection.execute(query).all()
    return [Failure(r.job_id, f"{r.root.rstrip('/')}/{r.path}", r.reason, r.detail or "") for r in rows]


def reasons(db: Database, job_id: int) -> dict[str, int]:
    """Return how many items of a job failed, by reason."""
    query = sa.select(Item.reason, sa.func.count()).where(Item.job_id == job_id, is_failed())
    with db.reading() as connection:
        rows = connection.execute(query.group_by(Item.reason).order_by(Item.reason)).all()
    return {str(reason): n for reason, n in rows}


def waiting_roots(db: Database, job_id: int) -> list[str]:
    """Return the names of the roots in which a job still has work."""
    waiting = sa.exists().where(Chunk.root_id == Root.id, Chunk.job_id == job_id, is_open())
    with db.reading() as connection:
        return list(connection.execute(sa.select(Root.name).where(waiting).order_by(Root.name)).scalars())


def last_errors(db: Database, job_id: int) -> list[tuple[str, int]]:
    """Return why open chunks of a job were given back, as workers said it, and how many images each keeps waiting."""
    left = sa.func.sum(Chunk.size - Chunk.captioned - Chunk.reused - Chunk.failed)
    query = sa.select(Chunk.last_error, left).where(Chunk.job_id == job_id, is_open(), Chunk.last_error.is_not(None))
    query = query.group_by(Chunk.last_error).order_by(left.desc()).limit(3)
    with db.reading() as connection:
        return [(str(error), int(n)) for error, n in connection.execute(query)]


def fatal_images(db: Database, job_id: int) -> list[tuple[str, int]]:
    """Return open images that had a chunk to themselves when worker after worker died, and how many did."""
    left = Chunk.size - Chunk.captioned - Chunk.reused - Chunk.failed
    query = (
        sa.select(Root.path.label("root"), File.path, Chunk.attempts)
        .join(Item, Item.chunk_id == Chunk.id)
        .join(File, File.id == Item.file_id)
        .join(Root, Root.id == File.root_id)
        .where(Chunk.job_id == job_id, is_open(), left == 1, Chunk.attempts >= FATAL_ATTEMPTS)
        .where(Item.state == ItemState.PENDING)
        .order_by(Chunk.seq)
        .limit(10)
    )
    with db.reading() as connection:
        return [(f"{r.root.rstrip('/')}/{r.path}", r.attempts) for r in connection.execute(query)]
