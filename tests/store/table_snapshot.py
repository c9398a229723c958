"""A snapshot of the tables, read in one transaction, and the invariants that it must satisfy at any time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from captioning.store.database import Database, now
from captioning.store.schema import Caption, Chunk, File, Image, Item, Job
from captioning.values import ChunkState, ItemState
from tests.store.reference_model import ModelChunk

FINISHED = (ItemState.CAPTIONED, ItemState.REUSED, ItemState.FAILED)
CHUNKS = sa.select(
    Chunk.id, Chunk.lease_until, Chunk.job_id, Chunk.seq, Chunk.root_id, Chunk.state, Chunk.fence, Chunk.attempts,
    Chunk.worker, Chunk.size, Chunk.captioned, Chunk.reused, Chunk.failed, Chunk.model_runs,
).order_by(Chunk.job_id, Chunk.seq)  # fmt: skip
CHUNK_OF_ITEM = sa.and_(Chunk.id == Item.chunk_id, Chunk.job_id == Item.job_id, Chunk.root_id == File.root_id)
ITEMS = (
    sa.select(Item.job_id, Chunk.seq, File.root_id, File.path_bytes, Item.state, Item.reason, Item.attempts)
    .join(File, File.id == Item.file_id)
    .join(Chunk, CHUNK_OF_ITEM)
    .order_by(Item.job_id, Chunk.seq, Item.id)
)
FILES = (
    sa.select(
        File.root_id, File.path_bytes, File.size, File.mtime_ns, Image.sha256, File.missing_since.is_not(None),
        File.failed_reason,
    )
    .outerjoin(Image, Image.id == File.image_id)
    .order_by(File.id)
)  # fmt: skip
CAPTIONS = sa.select(Image.sha256, Caption.model_id, Caption.options_digest, Caption.text).join(
    Image, Image.id == Caption.image_id
)
JOBS = sa.select(Job.last_claimed_at).order_by(Job.id)


@dataclass(frozen=True)
class Snapshot:
    """The rows of the tables, and the time at which they were read."""

    chunks: Sequence[Row[Any]]
    items: Sequence[Row[Any]]
    files: Sequence[Row[Any]]
    captions: Sequence[Row[Any]]
    jobs: Sequence[Row[Any]]
    at: float

    def check_invariants(self) -> None:
        """Check that counts agree with items, chunks that are done have no pending items, and failures a reason."""
        states = Counter((item.job_id, item.seq, item.state) for item in self.items)
        for chunk in self.chunks:
            counts = {state: states[chunk.job_id, chunk.seq, state] for state in ItemState}
            assert chunk.size == sum(counts.values())
            assert (chunk.captioned, chunk.reused, chunk.failed) == tuple(counts[state] for state in FINISHED)
            assert chunk.state != ChunkState.DONE or counts[ItemState.PENDING] == 0
        assert all((item.reason is not None) == (item.state == ItemState.FAILED) for item in self.items)
        keys = [tuple(caption)[:3] for caption in self.captions]
        assert len(keys) == len(set(keys))


def take_snapshot(db: Database) -> Snapshot:
    with db.reading() as connection:
        rows = [connection.execute(query).all() for query in (CHUNKS, ITEMS, FILES, CAPTIONS, JOBS)]
        at = connection.execute(sa.select(now())).scalar_one()
    return Snapshot(*rows, at)


def clock(db: Database) -> float:
    """Return the time by the database's clock."""
    with db.reading() as connection:
        return float(connection.execute(sa.select(now())).scalar_one())


def expected_row(chunk: ModelChunk) -> tuple[object, ...]:
    """Return the row of CHUNKS that a chunk of the model corresponds to, without its id and lease."""
    return (
        chunk.job.id, chunk.seq, chunk.root, chunk.state, chunk.fence, chunk.attempts,
        chunk.worker, len(chunk.items), *map(chunk.count, FINISHED), chunk.model_runs,
    )  # fmt: skip
