"""What the tables hold, read at once, and what must hold of it whatever happened."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from captioning.store.database import Database, now
from captioning.store.schema import Caption, Chunk, File, Image, Item, Job
from captioning.values import ChunkState, ItemState
from tests.store.reference_model import PlainChunk

DECIDED = (ItemState.CAPTIONED, ItemState.REUSED, ItemState.FAILED)
CHUNKS = sa.select(
    Chunk.id, Chunk.lease_until, Chunk.job_id, Chunk.seq, Chunk.root_id, Chunk.state, Chunk.fence, Chunk.attempts,
    Chunk.worker, Chunk.size, Chunk.captioned, Chunk.reused, Chunk.failed, Chunk.model_runs,
).order_by(Chunk.job_id, Chunk.seq)  # fmt: skip
IN_ITS_OWN_CHUNK = sa.and_(Chunk.id == Item.chunk_id, Chunk.job_id == Item.job_id, Chunk.root_id == File.root_id)
ITEMS = (
    sa.select(Item.job_id, Chunk.seq, File.root_id, File.path_bytes, Item.state, Item.reason, Item.attempts)
    .join(File, File.id == Item.file_id)
    .join(Chunk, IN_ITS_OWN_CHUNK)
    .order_by(Item.job_id, Chunk.seq, Item.id)
)
FILES = (
    sa.select(File.root_id, File.path_bytes, File.size, File.mtime_ns, Image.sha256, File.missing_since.is_not(None))
    .outerjoin(Image, Image.id == File.image_id)
    .order_by(File.id)
)
CAPTIONS = sa.select(Image.sha256, Caption.model_id, Caption.options_digest, Caption.text).join(
    Image, Image.id == Caption.image_id
)
SERVED = sa.select(Job.last_claimed_at).order_by(Job.id)


@dataclass(frozen=True)
class Rows:
    chunks: Sequence[Row[Any]]
    items: Sequence[Row[Any]]
    files: Sequence[Row[Any]]
    captions: Sequence[Row[Any]]
    served: Sequence[Row[Any]]
    at: float

    def keep_promises(self) -> None:
        """Counts are what the items say, what is done has no item left, and what failed has a reason."""
        states = Counter((item.job_id, item.seq, item.state) for item in self.items)
        for chunk in self.chunks:
            mine = {state: states[chunk.job_id, chunk.seq, state] for state in ItemState}
            assert chunk.size == sum(mine.values())
            assert (chunk.captioned, chunk.reused, chunk.failed) == tuple(mine[state] for state in DECIDED)
            assert chunk.state != ChunkState.DONE or mine[ItemState.PENDING] == 0
        assert all((item.reason is not None) == (item.state == ItemState.FAILED) for item in self.items)
        keys = [tuple(caption)[:3] for caption in self.captions]
        assert len(keys) == len(set(keys))


def read_rows(db: Database) -> Rows:
    with db.reading() as connection:
        rows = [connection.execute(query).all() for query in (CHUNKS, ITEMS, FILES, CAPTIONS, SERVED)]
        at = connection.execute(sa.select(now())).scalar_one()
    return Rows(*rows, at)


def clock(db: Database) -> float:
    with db.reading() as connection:
        return float(connection.execute(sa.select(now())).scalar_one())


def as_row(chunk: PlainChunk) -> tuple[object, ...]:
    """Return a chunk as CHUNKS would, from its job's id on."""
    return (
        chunk.job.id, chunk.seq, chunk.root, chunk.state, chunk.fence, chunk.attempts,
        chunk.worker, len(chunk.items), *map(chunk.count, DECIDED), chunk.model_runs,
    )  # fmt: skip
