"""Results: a worker commits a batch of a chunk that it holds, in one transaction."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import CaptioningError
from captioning.store.bulk import insert_or_ignore, is_one_of, update_rows
from captioning.store.claims import Claim, lease_columns
from captioning.store.database import Database
from captioning.store.files import NO_FAILURE
from captioning.store.leases import update_held
from captioning.store.new_captions import insert_captions, insert_images
from captioning.store.outcomes import Outcome, Provenance
from captioning.store.schema import Capability, Chunk, File, Image, Item
from captioning.store.schema import Caption as CaptionRow
from captioning.values import DecodeCapability, ItemState, Reason, Source


def captioned_digests(db: Database, claim: Claim, sha256s: Sequence[str]) -> set[str]:
    """Return which of these contents have a caption by the claim's model and options."""
    with db.reading() as connection:
        return _captioned_digests(connection, claim, sha256s)


def _captioned_digests(connection: Connection, claim: Claim, sha256s: Collection[str]) -> set[str]:
    query = (
        sa.select(Image.sha256)
        .join(CaptionRow, CaptionRow.image_id == Image.id)
        .where(
            is_one_of(connection, Image.sha256, sha256s),
            CaptionRow.source == Source.MACHINE,
            CaptionRow.model_id == claim.model_id,
            CaptionRow.options_digest == claim.options.digest,
        )
    )
    return set(connection.execute(query).scalars())


def commit_batch(
    db: Database, claim: Claim, outcomes: Sequence[Outcome], provenance: Provenance, lease_seconds: float
) -> None:
    """Commit a batch in one transaction: captions, items, files and counts. Extends the lease. Raises LeaseLost.

    Idempotent, because a caller that loses its connection during the commit cannot know how it ended: captions are
    inserted or ignored, and items that are no longer pending in this chunk are skipped.
    """
    with db.writing() as connection:
        at = update_held(connection, claim, lease_columns(lease_seconds))
        images = insert_images(connection, [o.content for o in outcomes if o.content is not None])
        # of re-queued items too: copies need them
        insert_captions(connection, claim, outcomes, images, provenance, at)
        open_ids = _finish_items(connection, claim, outcomes, at)
        outcomes = [o for o in outcomes if o.item.item_id in open_ids]
        if not outcomes:
            return
        _require_captions(connection, claim, [o for o in outcomes if o.state == ItemState.REUSED])
        n = Counter(o.state for o in outcomes)
        counts = {
            "attempts": 0,  # progress: these images did not kill the earlier workers
            "deferrals": 0,
            "last_error": None,
            "captioned": Chunk.captioned + n[ItemState.CAPTIONED],
            "reused": Chunk.reused + n[ItemState.REUSED],
            "failed": Chunk.failed + n[ItemState.FAILED],
            "model_runs": Chunk.model_runs + sum(o.caption is not None for o in outcomes),
        }
        update_held(connection, claim, counts)
        _update_files(connection, outcomes, images.ids, provenance.capability)


def _finish_items(connection: Connection, claim: Claim, outcomes: Sequence[Outcome], at: float) -> set[int]:
    """Write the results of the items that are still pending in this chunk; return their ids.

    Nobody else changes them meanwhile, because all who do lock the chunk first.
    """
    same: dict[tuple[ItemState, Reason | None, str | None], list[int]] = {}
    for o in outcomes:
        same.setdefault((o.state, o.reason, o.detail), []).append(o.item.item_id)
    pending = (Item.chunk_id == claim.chunk_id, Item.state == ItemState.PENDING)
    open_ids = set[int]()
    for (state, reason, detail), ids in same.items():
        update = sa.update(Item).where(is_one_of(connection, Item.id, ids), *pending).returning(Item.id)
        values = {"state": state, "reason": reason, "detail": detail, "finished_at": at}
        open_ids.update(connection.execute(update.values(values)).scalars().all())
    return open_ids


def _require_captions(connection: Connection, claim: Claim, reused: Sequence[Outcome]) -> None:
    """Raise CaptioningError when a caption that a batch reuses was removed meanwhile: its image is to be decoded."""
    sha256s = {o.content.sha256 for o in reused if o.content is not None}
    if sha256s and not sha256s <= _captioned_digests(connection, claim, sha256s):
        raise CaptioningError("a caption was removed by `producer forget` while a copy of its image was captioned")


def _update_files(
    connection: Connection, outcomes: Sequence[Outcome], image_ids: dict[str, int], capability: DecodeCapability
) -> None:
    """Link files to their content, or note why they failed, except files that were registered with changes since."""
    succeeded: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    capability_id = _capability_id(connection, capability) if any(o.is_permanent for o in outcomes) else None
    for o in outcomes:
        item = o.item
        row = {
            "id": item.file_id,
            "size_read": item.size,
            "mtime_read": item.mtime_ns,
            "ctime_read": item.ctime_ns or 0,
        }
        if o.reason is not None:
            reason = {"failed_reason": o.reason, "failed_detail": o.detail}
            failed.append(row | reason | {"failed_capability_id": capability_id if o.is_permanent else None})
        elif o.content is not None:
            row["image_id"] = image_ids[o.content.sha256]
            succeeded.append(row | NO_FAILURE)
    for rows in (succeeded, failed):
        update_rows(connection, File, rows, size_read="size", mtime_read="mtime_ns", ctime_read="ctime_ns")


def _capability_id(connection: Connection, capability: DecodeCapability) -> int:
    insert_or_ignore(connection, Capability, [{"text": capability.to_text()}])
    query = sa.select(Capability.id).where(Capability.text == capability.to_text())
    return connection.execute(query).scalar_one()
