"""Claims: a worker takes a chunk for a limited time.

One `UPDATE ... RETURNING` claims a chunk, so two workers never get the same one. Each claim raises the chunk's fence
(a fencing token: Kleppmann 2016, "How to do distributed locking").
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.store.chunks import split_off
from captioning.store.database import CLOCK_STEP_SECONDS, Database, now
from captioning.store.pairs import partner_path
from captioning.store.schema import Chunk, File, Item, Job, Model, Root, is_open
from captioning.values import ChunkState, DecodeOptions, ItemState, JobState

SPLIT_ATTEMPTS = 2  # attempts without progress (see the glossary) after which a chunk is claimed in halves
MAX_TURN_SECONDS = 600.0  # a turn counts as no longer than this
BACKOFF_UNIT_SECONDS, MAX_BACKOFF_SECONDS = 5.0, 600.0  # a chunk waits attempts ** 2 * 5 s


@dataclass(frozen=True)
class ClaimedItem:
    """One file of a claimed chunk that needs a caption."""

    item_id: int
    file_id: int
    path: bytes  # below the root, of what is read: the file itself, or its partner
    size: int  # bytes
    mtime_ns: int
    attempts: int  # decode processes that died while they decoded it
    was_missed: bool  # a later walk of its folder did not find it either
    ctime_ns: int | None = None


@dataclass(frozen=True)
class Claim:
    """A chunk that this worker holds."""

    chunk_id: int
    job_id: int
    root_id: int
    fence: int
    model_id: int
    model_digest: str
    options: DecodeOptions
    force: bool
    deferrals: int  # times in a row that it was released because its files were unreachable
    items: tuple[ClaimedItem, ...]
    skip_near_duplicates: bool = False  # they share the caption of an image that has one
    claimed_at: float = field(default_factory=time.monotonic)  # this process's clock, seconds


def claim(db: Database, worker: str, models: Sequence[str], roots: Sequence[int], lease_seconds: float) -> Claim | None:
    """Claim the next chunk for a worker that has these models (digests) and sees these roots (ids).

    Jobs are ordered by priority, then by least recent claim; within a job, the first free chunk is taken. Taking over
    an expired lease counts as an attempt. The job is found first, so that a claim costs the same however many chunks
    are waiting. Returns None when there is nothing to claim.
    """
    with db.writing() as connection:
        wanted = sa.and_(_servable(models), sa.exists().where(Chunk.job_id == Job.id, _is_free(roots)).correlate(Job))
        void = Job.last_claimed_at > now() + MAX_TURN_SECONDS + CLOCK_STEP_SECONDS  # the clock was set back since
        last_claimed = sa.case((void, 0.0), else_=Job.last_claimed_at)
        best_jobs = sa.select(Job.id).where(wanted).order_by(Job.priority.desc(), last_claimed, Job.id).limit(16)
        for job_id in connection.execute(best_jobs).scalars().all():
            row = _claim_from_job(connection, job_id, worker, models, roots, lease_seconds)
            if row is not None:  # otherwise other workers have just claimed the job's free chunks
                return _load_claim(connection, row)
    return None


def _claim_from_job(
    connection: Connection, job_id: int, worker: str, models: Sequence[str], roots: Sequence[int], lease_seconds: float
) -> Any:
    """Claim the first free chunk of a job; return its row, or None."""
    first = sa.select(Chunk.id).where(Chunk.job_id == job_id, _is_free(roots)).order_by(Chunk.seq).limit(1)
    update = sa.update(Chunk).where(
        Chunk.id == first.with_for_update(skip_locked=True).scalar_subquery(),
        sa.exists().where(Job.id == Chunk.job_id, _servable(models)),
    )
    update = update.values(
        state=ChunkState.RUNNING,
        fence=Chunk.fence + 1,
        attempts=Chunk.attempts + sa.case((Chunk.state == ChunkState.RUNNING, 1), else_=0),
        worker=worker,
        **lease_columns(lease_seconds),
    ).returning(Chunk.id, Chunk.job_id, Chunk.root_id, Chunk.fence, Chunk.attempts, Chunk.deferrals)
    row = connection.execute(update).one_or_none()
    served = sa.update(Job).where(Job.id == job_id, Job.state == JobState.ACTIVE).values(last_claimed_at=now())
    if row is not None and connection.execute(served).rowcount == 0:  # it was cancelled between the two updates
        undo = {"state": ChunkState.PENDING, "lease_until": None, "leased_at": None}
        connection.execute(sa.update(Chunk).where(Chunk.id == row.id).values(**undo))
        return None
    return row


def _load_claim(connection: Connection, row: Any) -> Claim:
    """Read what a worker needs to know of a chunk that it has just claimed; a suspect chunk is split first.

    A chunk that outlives several workers may hold an image that kills them. Claiming it in halves separates that image
    from the others in a few steps. This fails no image: the workers may have died of anything.
    """
    job = connection.execute(
        sa.select(Job.options, Job.force, Job.skip_near_duplicates, Model.id, Model.digest)
        .join(Model, Model.id == Job.model_id)
        .where(Job.id == row.job_id)
    ).one()
    columns = (File.path_bytes, File.partner, Item.id, File.id, File.size, File.mtime_ns, Item.attempts)
    rows = connection.execute(
        sa.select(*columns, File.missing_since.is_not(None), File.ctime_ns)
        .join(File, File.id == Item.file_id)
        .where(Item.chunk_id == row.id, Item.state == ItemState.PENDING)
        .order_by(Item.id)
    ).all()
    items = [_to_item(*item) for item in rows]
    if row.attempts >= SPLIT_ATTEMPTS and len(items) > 1:
        items, others = items[: len(items) // 2], items[len(items) // 2 :]
        ids = [item.item_id for item in others]
        split_off(connection, row.job_id, row.root_id, row.id, ids, row.attempts)  # the claim locked the job's row
    options = DecodeOptions(**job.options)
    return Claim(
        row.id, row.job_id, row.root_id, row.fence, job.id, job.digest, options, job.force,
        row.deferrals, tuple(items), job.skip_near_duplicates,
    )  # fmt: skip


def _to_item(path: bytes, partner: bytes | None, item_id: int, file_id: int, *rest: Any) -> ClaimedItem:
    return ClaimedItem(item_id, file_id, partner_path(path, partner), *rest)


def roots_with_work(db: Database) -> list[tuple[int, str, bytes]]:
    """Return the roots (id, name, path) in which an active job has open chunks."""
    open_chunk = sa.exists().where(Chunk.root_id == Root.id, Chunk.job_id == Job.id, is_open()).correlate(Root, Job)
    wanted = sa.exists().where(Job.state == JobState.ACTIVE, open_chunk).correlate(Root)
    with db.reading() as connection:
        rows = connection.execute(sa.select(Root.id, Root.name, Root.path_bytes).where(wanted)).all()
    return [(row.id, row.name, row.path_bytes) for row in rows]


def count_claimable(db: Database, models: Sequence[str], roots: Sequence[int] | None, limit: int) -> int:
    """Return how many chunks could be claimed now, up to `limit`."""
    claimable = sa.select(Chunk.id).join(Job, Job.id == Chunk.job_id).where(_servable(models), _is_free(roots))
    with db.reading() as connection:
        count = sa.select(sa.func.count()).select_from(claimable.limit(limit).subquery())
        return int(connection.execute(count).scalar_one())


# -- what claims and leases have in common --


def backoff() -> sa.ColumnElement[float]:
    """Return how long a chunk waits after a death, in seconds: what kills workers must not kill them all day."""
    seconds = BACKOFF_UNIT_SECONDS * Chunk.attempts * Chunk.attempts
    return sa.case((seconds > MAX_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS), else_=seconds)


def lease_columns(seconds: Any) -> dict[str, Any]:
    """Return the columns of a lease, or of a backoff, that starts now."""
    return {"lease_until": now() + seconds, "leased_at": now()}


def _is_free(roots: Sequence[int] | None) -> sa.ColumnElement[bool]:
    """Return the condition for a chunk to be claimable: pending and past its backoff, or with an expired lease.

    A lease that was granted in the future is void: the clock was set back since, and it would last that much longer.
    """
    pending = sa.and_(Chunk.state == ChunkState.PENDING, sa.func.coalesce(Chunk.lease_until, 0) < now())
    expired = sa.and_(Chunk.state == ChunkState.RUNNING, Chunk.lease_until + backoff() < now())
    void = Chunk.leased_at > now() + CLOCK_STEP_SECONDS
    free = sa.and_(is_open(), sa.or_(pending, expired, void))
    return free if roots is None else sa.and_(free, Chunk.root_id.in_(roots))


def _servable(models: Sequence[str]) -> sa.ColumnElement[bool]:
    """Return the condition for a job to be served by a worker that has these models (digests)."""
    available = sa.select(Model.id).where(Model.digest.in_(models))
    return sa.and_(Job.state == JobState.ACTIVE, Job.model_id.in_(available))
