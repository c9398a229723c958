"""Jobs: create them, report their progress and failures, and pause, resume, cancel or retry them."""

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.store.bulk import insert_or_ignore
from captioning.store.chunks import complete_job_if_done, lock_job, requeue
from captioning.store.database import Database, now
from captioning.store.files import clear_failures
from captioning.store.schema import Chunk, File, ForgottenJob, Item, Job, Model, Root, has_failed, is_failed, is_open
from captioning.values import ChunkState, DecodeOptions, ItemState, JobState, Reason

_COUNTS = (Chunk.size, Chunk.captioned, Chunk.reused, Chunk.failed, Chunk.model_runs)
_UNFINISHED = (JobState.ACTIVE, JobState.PAUSED)
FATAL_ATTEMPTS = 4  # attempts on a chunk with one image left, after which `fatal_images` reports the image


@dataclass(frozen=True)
class JobRequest:
    """What a `submit` asks for."""

    key: str
    name: str
    options: DecodeOptions
    priority: int = 0
    force: bool = False
    skip_near_duplicates: bool = False


@dataclass(frozen=True)
class Progress:
    """The progress of a job. Counts are in images."""

    job: int
    name: str
    state: str
    model: str
    model_digest: str
    registered: bool
    priority: int
    total: int  # items: the images that needed work when they were registered
    captioned: int
    reused: int
    failed: int
    model_runs: int
    known: int  # files that needed no work
    skipped: dict[str, int]  # files that are not images or were filtered out, by category
    created_at: float  # seconds since 1970
    finished_at: float | None
    failed_before: int = 0  # files that cannot be decoded, as an earlier job found

    @property
    def scanned(self) -> int:
        """The number of files that the submit found."""
        return self.total + self.known + self.failed_before

    @property
    def done(self) -> int:
        """The number of images with a result, captions or failures."""
        return self.captioned + self.reused + self.failed

    @property
    def is_finished(self) -> bool:
        """Whether workers have stopped working on the job, unless somebody resumes or retries it."""
        return self.state in (JobState.DONE, JobState.CANCELLED)


def register_model(db: Database, bundle: Bundle, *, default: str) -> int:
    """Make sure that a bundle has a row, and mark the models named `default` as such; return the row's id."""
    with db.writing() as connection:
        at = connection.execute(sa.select(now())).scalar_one()
        row = {"digest": bundle.digest, "name": bundle.name, "card": bundle.card, "created_at": at}
        insert_or_ignore(connection, Model, [row])
        outdated = Model.is_default != (Model.name == default)
        connection.execute(sa.update(Model).where(outdated).values(is_default=Model.name == default))
        return connection.execute(sa.select(Model.id).where(Model.digest == bundle.digest)).scalar_one()


def open_job(db: Database, request: JobRequest, model_id: int, done_within_seconds: float = 0.0) -> tuple[int, bool]:
    """Return the id of the unfinished job with the same key, or of a new job, and whether the job existed.

    With `done_within_seconds`, a job that is done is continued too if it was created so recently. It becomes active
    again with its first new item.
    """
    with db.writing() as connection:
        # The lock makes a second submit of the same job wait, and then find the job.
        connection.execute(sa.select(Model.id).where(Model.id == model_id).with_for_update(key_share=True))
        unfinished = Job.state.in_(_UNFINISHED)
        recent = sa.and_(Job.state == JobState.DONE, Job.created_at > now() - done_within_seconds)
        continued = sa.or_(unfinished, recent) if done_within_seconds else unfinished
        # A job with an interrupted walk comes first, because only another submit can complete it.
        order = (Job.registered, Job.state == JobState.DONE, Job.id.desc())
        same = sa.select(Job.id).where(Job.key == request.key, continued).order_by(*order)
        existing_id = connection.execute(same).scalars().first()
        if existing_id is not None:
            connection.execute(sa.update(Job).where(Job.id == existing_id).values(priority=request.priority))
            return existing_id, True
        values = {
            "key": request.key,
            "name": request.name,
            "options": asdict(request.options),
            "options_digest": request.options.digest,
            "model_id": model_id,
            "force": request.force,
            "skip_near_duplicates": request.skip_near_duplicates,
            "priority": request.priority,
            "state": JobState.ACTIVE,
            "skipped": {},
            "created_at": now(),
        }
        if db.is_sqlite:  # its own next number may be that of a forgotten job; we hold its only write lock
            used = sa.union_all(sa.select(Job.id), sa.select(ForgottenJob.id)).subquery()
            values["id"] = connection.execute(sa.select(sa.func.coalesce(sa.func.max(used.c.id), 0) + 1)).scalar_one()
        return connection.execute(sa.insert(Job).values(**values).returning(Job.id)).scalar_one(), False


def close_registration(db: Database, job_id: int, known: int, skipped: dict[str, int], failed_before: int = 0) -> None:
    """Record that the walk of a job's folders is complete. A job without open chunks is then done."""
    with db.writing() as connection:
        values = {"registered": True, "known": known, "failed_before": failed_before, "skipped": skipped}
        connection.execute(sa.update(Job).where(Job.id == job_id).values(**values))
        complete_job_if_done(connection, job_id)


def progress(db: Database, job_id: int | None = None, limit: int | None = None) -> list[Progress]:
    """Return the progress of one job, or of the `limit` newest, newest first. Raises UsageError for an unknown job."""
    jobs = sa.select(Job.id).order_by(Job.id.desc()).limit(limit)
    if job_id is not None:
        jobs = sa.select(Job.id).where(Job.id == job_id)
    sums = [sa.func.coalesce(sa.func.sum(column), 0).label(column.key) for column in _COUNTS]
    counts = sa.select(Chunk.job_id, *sums).where(Chunk.job_id.in_(jobs)).group_by(Chunk.job_id).subquery()
    columns = [sa.func.coalesce(counts.c[column.key], 0) for column in _COUNTS]
    query = (
        sa.select(Job, Model.name.label("model"), Model.digest, *columns)
        .join(Model, Model.id == Job.model_id)
        .outerjoin(counts, counts.c.job_id == Job.id)
        .where(Job.id.in_(jobs))
        .order_by(Job.id.desc())
    )
    with db.reading() as connection:
        rows = connection.execute(query).all()
    if job_id is not None and not rows:
        raise _unknown_job(job_id)
    return [_progress(row) for row in rows]


def _progress(row: Row[Any]) -> Progress:
    size, captioned, reused, failed, runs = (int(n) for n in row[-5:])
    return Progress(
        row.id, row.name, row.state, row.model, row.digest, row.registered, row.priority,
        size, captioned, reused, failed, runs, row.known, row.skipped, row.created_at, row.finished_at,
        row.failed_before,
    )  # fmt: skip


def _unknown_job(job_id: int) -> UsageError:
    return UsageError(f"there is no job {job_id}; `producer jobs` lists them.")


def is_held(db: Database, job_id: int) -> bool:
    """Return whether a worker holds a chunk of a job now."""
    held = sa.exists().where(Chunk.job_id == job_id, Chunk.state == ChunkState.RUNNING)
    with db.reading() as connection:
        return bool(connection.execute(sa.select(held)).scalar())


def clock(db: Database) -> float:
    """Return the time by the database's clock, in seconds since 1970."""
    with db.reading() as connection:
        return float(connection.execute(sa.select(now())).scalar_one())


def has_failures_since(db: Database, job_id: int, since: float) -> bool:
    """Return whether an item of a job has failed since a time by the database's clock."""
    failed = sa.select(Item.id).where(Item.job_id == job_id, is_failed())
    with db.reading() as connection:
        return connection.execute(failed.where(Item.finished_at >= since).limit(1)).first() is not None


def count_decided(db: Database) -> int:
    """Return how many images of all jobs have a result, captions or failures."""
    decided = sa.func.sum(Chunk.captioned + Chunk.reused + Chunk.failed)
    with db.reading() as connection:
        return int(connection.execute(sa.select(decided)).scalar() or 0)


def newest_job(db: Database) -> int:
    """Return the id of the newest job. Raises UsageError when there is none."""
    with db.reading() as connection:
        newest = connection.execute(sa.select(sa.func.max(Job.id))).scalar()
    if newest is None:
        raise UsageError("there are no jobs yet; `producer submit FOLDER` creates one.")
    return int(newest)


# -- changing a job --


def pause(db: Database, job_id: int) -> str:
    """Stop workers from claiming chunks of a job; they finish those they hold. Return the job's new state."""
    return _change_state(db, job_id, (JobState.ACTIVE,), JobState.PAUSED)


def resume(db: Database, job_id: int) -> str:
    """Let workers claim the chunks of a paused or cancelled job again. Return the job's new state."""
    return _change_state(db, job_id, (JobState.PAUSED, JobState.CANCELLED), JobState.ACTIVE)


def cancel(db: Database, job_id: int) -> str:
    """Stop a job at once: the fence refuses the next commit of every worker. Return the job's new state."""
    return _change_state(db, job_id, _UNFINISHED, JobState.CANCELLED)


def _change_state(db: Database, job_id: int, sources: tuple[JobState, ...], target: JobState) -> str:
    """Change a job to the state `target` if it is in one of the states `sources`; return the state that it has then."""
    with db.writing() as connection:
        change = sa.update(Job).where(Job.id == job_id, Job.state.in_(sources))
        connection.execute(change.values(state=target, finished_at=None))
        if target == JobState.CANCELLED:
            running = sa.update(Chunk).where(Chunk.job_id == job_id, Chunk.state == ChunkState.RUNNING)
            connection.execute(running.values(state=ChunkState.PENDING, fence=Chunk.fence + 1, lease_until=None))
        if target == JobState.ACTIVE:
            complete_job_if_done(connection, job_id)
        state = connection.execute(sa.select(Job.state).where(Job.id == job_id)).scalar()
    if state is None:
        raise _unknown_job(job_id)
    return str(state)


def retry(db: Database, job_id: int, reason: Reason | None, chunk_size: int) -> int:
    """Queue the failed items of a job again, or only those that failed for `reason`; return how many."""
    with db.writing() as connection:
        if not lock_job(connection, job_id):
            raise _unknown_job(job_id)
        failed = (
            sa.select(Item.id, Item.file_id, File.root_id)
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
        clear_failures(connection, [row.file_id for row in rows])
    return len(rows)


# -- reports about a job --


@dataclass(frozen=True)
class Failure:
    """A file that has no caption, or no new one, because the last attempt failed."""

    job: int | None  # the last one in which it failed; None when that job was removed
    path: str
    reason: str
    detail: str


def failures(db: Database, job_id: int | None) -> list[Failure]:
    """Return the files that have failed as they are now, each once: of one job or of all, by job and path.

    A file that was captioned, changed or deleted since it failed is not among them. Raises UsageError for an unknown
    job.
    """
    failed_in = sa.select(sa.func.max(Item.job_id)).where(Item.file_id == File.id, is_failed()).correlate(File)
    last_job = failed_in.scalar_subquery().label("job")
    query = (
        sa.select(last_job, Root.path.label("root"), File.path, File.failed_reason, File.failed_detail)
        .join(Root, Root.id == File.root_id)
        .where(has_failed(), File.missing_since.is_(None))
        .order_by(last_job, Root.path, File.path)
    )
    if job_id is not None:
        progress(db, job_id)  # raises UsageError when there is no such job
        in_job = sa.select(Item.file_id).where(Item.job_id == job_id, is_failed())
        query = query.where(File.id.in_(in_job))
    with db.reading() as connection:
        rows = connection.execute(query).all()
    return [
        Failure(job_id or r.job, f"{r.root.rstrip('/')}/{r.path}", r.failed_reason, r.failed_detail or "") for r in rows
    ]


def reasons(db: Database, job_id: int) -> dict[str, int]:
    """Return the number of failed items of a job by reason."""
    query = sa.select(Item.reason, sa.func.count()).where(Item.job_id == job_id, is_failed())
    with db.reading() as connection:
        rows = connection.execute(query.group_by(Item.reason).order_by(Item.reason)).all()
    return {str(reason): n for reason, n in rows}


def waiting_roots(db: Database, job_id: int) -> list[str]:
    """Return the names of the roots in which a job has open chunks, by name."""
    has_work = sa.exists().where(Chunk.root_id == Root.id, Chunk.job_id == job_id, is_open())
    with db.reading() as connection:
        return list(connection.execute(sa.select(Root.name).where(has_work).order_by(Root.name)).scalars())


def last_errors(db: Database, job_id: int) -> list[tuple[str, int]]:
    """Return the last errors of open chunks, with the number of images that wait in these chunks, the most first."""
    left = sa.func.sum(Chunk.size - Chunk.captioned - Chunk.reused - Chunk.failed)
    query = sa.select(Chunk.last_error, left).where(Chunk.job_id == job_id, is_open(), Chunk.last_error.is_not(None))
    query = query.group_by(Chunk.last_error).order_by(left.desc()).limit(3)
    with db.reading() as connection:
        return [(str(error), int(n)) for error, n in connection.execute(query)]


def fatal_images(db: Database, job_id: int) -> list[tuple[str, int]]:
    """Return up to ten images that probably kill workers, each with the number of attempts on it.

    Such an image is the last unfinished one of its chunk, and the chunk had `FATAL_ATTEMPTS` or more attempts.
    """
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
