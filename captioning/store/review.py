"""Which captions a person looks at, and in which order: the queues of `producer review`."""

import sqlalchemy as sa

from captioning.errors import UsageError
from captioning.store.captions import select_file_rows
from captioning.store.conditions import matching
from captioning.store.database import Database
from captioning.store.preferred import is_outdated, is_rejected
from captioning.store.schema import Caption, File
from captioning.store.statistics import Statistics
from captioning.values import Source

LIMIT = 100_000  # files of a queue; a person looks at fewer

_IS_OPEN = sa.and_(Caption.source == Source.MACHINE, Caption.original.is_(None))
QUEUES: dict[str, sa.ColumnElement[bool]] = {
    "open": _IS_OPEN,
    "changed": is_outdated(),
    "imported": Caption.source == Source.IMPORTED,
    "edited": Caption.original.is_not(None),
    "human": Caption.source == Source.HUMAN,
    "rejected": is_rejected(),
    "failed": sa.and_(Caption.id.is_(None), ~is_rejected(), File.failed_reason.is_not(None)),
    "all": sa.true(),
}
"""What a file of each queue fulfils. `open`: nobody has looked at the model's caption."""


def queue(db: Database, name: str, where: str = "", limit: int = LIMIT) -> list[int]:
    """Return the ids of a queue's files: those unlike the training images first, then the least certain captions.

    Raises UsageError for a queue that does not exist, and for a query that cannot be read.
    """
    if name not in QUEUES:
        raise UsageError(f"there is no queue {name!r}: choose {', '.join(QUEUES)}.")
    query = (
        select_file_rows(None)
        .with_only_columns(File.id)
        .where(File.missing_since.is_(None), File.partner.is_(None), QUEUES[name])
    )
    if where:
        query = query.where(matching(db, where))
    unlike_first = sa.func.coalesce(Caption.unlike, sa.false()).desc()
    in_order = query.order_by(unlike_first, Caption.confidence.is_(None), Caption.confidence, File.id)
    with db.reading() as connection:
        return list(connection.execute(in_order.limit(limit)).scalars())


def queue_sizes(found: Statistics) -> dict[str, int]:
    """Return how many files each queue has."""
    models = found.captioned - found.human - found.imported
    return {
        "open": models - found.edited, "changed": found.image_changed, "imported": found.imported,
        "edited": found.edited, "human": found.human, "rejected": found.rejected, "failed": found.failed,
        "all": found.files,
    }  # fmt: skip
