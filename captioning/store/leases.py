"""Leases: for how long a worker holds the chunk that it has claimed, and how it ends that.

Each write of a worker begins with the fence of its claim. A worker that was paused or cut off and lost its lease finds
a higher fence at its next write: the write changes nothing and raises LeaseLost.
"""

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import LeaseLost
from captioning.store.chunks import complete_job_if_done, last_chunk_seq, lock_job
from captioning.store.claims import MAX_TURN_SECONDS, Claim, ClaimedItem, backoff, lease_columns
from captioning.store.database import Database, now
from captioning.store.schema import Chunk, Item, Job, is_open
from captioning.values import ChunkState, JobState

LONG_TURN_SECONDS = 5.0  # with one chunk; after a longer turn the job goes behind others of its priority


def renew(db: Database, claim: Claim, lease_seconds: float) -> None:
    """Extend the lease. Called after progress only, so that a worker that hangs loses it. Raises LeaseLost."""
    with db.writing() as connection:
        update_held(connection, claim, lease_columns(lease_seconds))


def count_attempt(db: Database, claim: Claim, item: ClaimedItem) -> None:
    """Record that a decode process died while it decoded this item. Raises LeaseLost."""
    with db.writing() as connection:
        update_held(connection, claim, {})
        own = (Item.id == item.item_id, Item.chunk_id == claim.chunk_id)
        connection.execute(sa.update(Item).where(*own).values(attempts=Item.attempts + 1))


def complete(db: Database, claim: Claim) -> None:
    """Mark a chunk as done, and its job if this was the last open chunk. Raises LeaseLost."""
    with db.writing() as connection:
        update_held(connection, claim, {"state": ChunkState.DONE, "lease_until": None})
        _let_others_go_first_after_long_turn(connection, claim)
        complete_job_if_done(connection, claim.job_id)


def release(
    db: Database,
    claim: Claim,
    backoff_seconds: float = 0.0,
    *,
    counts_as_attempt: bool = False,
    defer: bool = False,
    error: str | None = None,
) -> None:
    """Return the unfinished rest of a chunk to the queue; it can be claimed again after the backoff. Raises LeaseLost.

    `counts_as_attempt`: the work itself fails, not a service; the backoff then grows with each attempt.
    `defer`: files are unreachable; the chunk moves behind all other chunks of the job, or the chunks of a large
    unmounted folder would keep workers busy with looking.
    `error`: what `producer status` shows until there is progress.
    """
    wait = sa.case((backoff() > backoff_seconds, backoff()), else_=backoff_seconds)
    values: dict[str, Any] = {
        "state": ChunkState.PENDING,
        "attempts": Chunk.attempts + int(counts_as_attempt),
        "deferrals": Chunk.deferrals + int(defer),
    }
    values |= lease_columns(wait if counts_as_attempt else backoff_seconds)
    values |= {"last_error": error} if error else {}
    with db.writing() as connection:
        update_held(connection, claim, values)
        if defer:
            lock_job(connection, claim.job_id)
            seq = last_chunk_seq(connection, claim.job_id) + 1
            connection.execute(sa.update(Chunk).where(Chunk.id == claim.chunk_id).values(seq=seq))
        _let_others_go_first_after_long_turn(connection, claim)


def release_held_by(db: Database, worker: str, *, counts_as_attempt: bool) -> int:
    """Release every chunk of a worker that is known to be dead; return how many.

    `counts_as_attempt`: it died while it was working, perhaps because of the work.
    """
    values: dict[str, Any] = {"state": ChunkState.PENDING, "fence": Chunk.fence + 1, "lease_until": None}
    if counts_as_attempt:
        values |= lease_columns(backoff()) | {"attempts": Chunk.attempts + 1}
    held = sa.update(Chunk).where(Chunk.worker == worker, Chunk.state == ChunkState.RUNNING, is_open())
    with db.writing() as connection:
        return len(connection.execute(held.values(**values).returning(Chunk.id)).all())


def _let_others_go_first_after_long_turn(connection: Connection, claim: Claim) -> None:
    """Order the job behind others of its priority for as long as this claim lasted, if that was long.

    Jobs take turns chunk by chunk, and most chunks take about the same time. A chunk of images that hang takes many
    times that, so the job's `last_claimed_at` is set that far into the future.
    """
    held = min(time.monotonic() - claim.claimed_at, MAX_TURN_SECONDS)
    if held > LONG_TURN_SECONDS:
        connection.execute(sa.update(Job).where(Job.id == claim.job_id).values(last_claimed_at=now() + held))


def update_held(connection: Connection, claim: Claim, values: dict[str, Any]) -> float:
    """Update the claimed chunk, which locks its row; return the time by the database's clock.

    Raises LeaseLost when the chunk is not this worker's any more.
    """
    own = sa.update(Chunk).where(
        Chunk.id == claim.chunk_id,
        Chunk.job_id == claim.job_id,  # SQLite gives the number of a forgotten chunk to a later one
        Chunk.fence == claim.fence,
        Chunk.state == ChunkState.RUNNING,
        sa.exists().where(Job.id == Chunk.job_id, Job.state != JobState.CANCELLED),
    )
    at = connection.execute(own.values(**({"fence": claim.fence} | values)).returning(now())).scalar()
    if at is None:
        raise LeaseLost(
            f"chunk {claim.chunk_id} of job {claim.job_id} was taken over or cancelled; nothing was written."
        )
    return float(at)
