"""Chunks: how a job's items are grouped for workers, re-queued and counted.

Every function here runs inside the caller's transaction. The caller holds the job's lock (`lock_job`) wherever chunks
get numbers. Claiming a chunk is the business of `captioning.store.claims`, committing its results that of
`captioning.store.results`.
"""

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.store.bulk import insert
from captioning.store.database import now
from captioning.store.schema import Chunk, Item, Job, is_open
from captioning.values import ChunkState, ItemState, JobState


def lock_job(connection: Connection, job_id: int) -> bool:
    """Lock a job's row until the end of the transaction; return whether the job exists.

    The lock keeps others from numbering the job's chunks or completing the job. Inserts that only reference the row,
    such as new items, are not blocked.
    """
    row = sa.select(Job.id).where(Job.id == job_id).with_for_update(key_share=True)
    return connection.execute(row).scalar() is not None


def last_chunk_seq(connection: Connection, job_id: int) -> int:
    """Return the highest chunk number of a job, 0 when the job has no chunk. The caller holds the job's lock."""
    return connection.execute(sa.select(sa.func.max(Chunk.seq)).where(Chunk.job_id == job_id)).scalar() or 0


def enqueue(connection: Connection, job_id: int, root_id: int, file_ids: Sequence[int], chunk_size: int) -> None:
    """Add files to a job as pending items, in new chunks after its last one."""
    if not file_ids:
        return
    items = [
        {"job_id": job_id, "file_id": file_id, "chunk_id": chunk_id, "state": ItemState.PENDING}
        for chunk_id, part in _new_chunks(connection, job_id, root_id, file_ids, chunk_size)
        for file_id in part
    ]
    insert(connection, Item, items)


def requeue(connection: Connection, job_id: int, root_id: int, item_ids: Sequence[int], chunk_size: int) -> None:
    """Make items of a job pending again, in new chunks after its last one. The caller holds the job's lock.

    A worker that is processing one of these items finds at its next commit that the item left its chunk.
    """
    if not item_ids:
        return
    for chunk_id, part in _new_chunks(connection, job_id, root_id, item_ids, chunk_size):
        current = sa.select(Item.chunk_id).where(Item.id.in_(part))
        old = sa.select(Chunk.id).where(Chunk.id.in_(current)).order_by(Chunk.id).with_for_update()
        old_ids = connection.execute(old).scalars().all()
        fresh = {"chunk_id": chunk_id, "state": ItemState.PENDING, "reason": None, "detail": None, "attempts": 0}
        connection.execute(sa.update(Item).where(Item.id.in_(part)).values(**fresh, finished_at=None))
        for old_id in old_ids:
            recount(connection, old_id)


def split_off(
    connection: Connection, job_id: int, root_id: int, chunk_id: int, item_ids: Sequence[int], attempts: int
) -> None:
    """Move items of a chunk to a new chunk at the end of the job, with the same number of attempts.

    The caller holds the job's lock.
    """
    seq = last_chunk_seq(connection, job_id) + 1
    row = {"job_id": job_id, "root_id": root_id, "seq": seq, "state": ChunkState.PENDING}
    row |= {"size": len(item_ids), "attempts": attempts}
    new_id = connection.execute(sa.insert(Chunk).values(**row).returning(Chunk.id)).scalar_one()
    connection.execute(sa.update(Item).where(Item.id.in_(item_ids)).values(chunk_id=new_id))
    connection.execute(sa.update(Chunk).where(Chunk.id == chunk_id).values(size=Chunk.size - len(item_ids)))


def complete_job_if_done(connection: Connection, job_id: int) -> None:
    """Mark a job as done when its registration is closed and it has no open chunk.

    The job's row is locked first: when two workers close the last two chunks at once, the second one sees the first.
    """
    lock_job(connection, job_id)
    open_chunk = sa.exists().where(Chunk.job_id == Job.id, is_open())
    finished = sa.update(Job).where(Job.id == job_id, Job.registered, Job.state == JobState.ACTIVE, ~open_chunk)
    connection.execute(finished.values(state=JobState.DONE, finished_at=now()))


def _new_chunks(
    connection: Connection, job_id: int, root_id: int, ids: Sequence[int], chunk_size: int
) -> Iterator[tuple[int, Sequence[int]]]:
    """Insert chunks for `ids`, in order, and yield each chunk's id with its part of them.

    A job that was done becomes active again.
    """
    last = last_chunk_seq(connection, job_id)
    parts = [ids[i : i + chunk_size] for i in range(0, len(ids), chunk_size)]
    rows = [
        {"job_id": job_id, "root_id": root_id, "seq": last + n, "state": ChunkState.PENDING, "size": len(part)}
        for n, part in enumerate(parts, start=1)
    ]
    insert = sa.insert(Chunk).returning(Chunk.id, sort_by_parameter_order=True)
    chunk_ids = connection.execute(insert, rows).scalars().all()
    reopen = sa.update(Job).where(Job.id == job_id, Job.state == JobState.DONE)
    connection.execute(reopen.values(state=JobState.ACTIVE, finished_at=None))
    yield from zip(chunk_ids, parts, strict=True)


def recount(connection: Connection, chunk_id: int) -> None:
    """Set the counts of a chunk that lost items to those of its remaining items. `model_runs` stays."""
    own = sa.select(sa.func.count()).where(Item.chunk_id == chunk_id)
    finished = (ItemState.CAPTIONED, ItemState.REUSED, ItemState.FAILED)
    counts = {str(state): own.where(Item.state == state).scalar_subquery() for state in finished}
    values = {"size": own.scalar_subquery()} | counts
    connection.execute(sa.update(Chunk).where(Chunk.id == chunk_id).values(**values))
