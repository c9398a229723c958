"""New captions: what the transaction that commits a batch inserts for the contents of its images."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import StoreUnavailable
from captioning.store.bulk import insert_for_images, insert_new, insert_or_ignore, is_one_of
from captioning.store.claims import Claim
from captioning.store.features import NewFeatures, drop_shared_captions, insert_features, share_captions
from captioning.store.outcomes import Content, Outcome, Provenance
from captioning.store.schema import Attention, Image
from captioning.store.schema import Caption as CaptionRow
from captioning.values import Source


@dataclass(frozen=True)
class ImageIds:
    """The rows of the contents of a batch."""

    ids: dict[str, int]  # by SHA-256
    new: frozenset[int]  # those of which nobody else can know, because this transaction has inserted them


def insert_images(connection: Connection, contents: Sequence[Content]) -> ImageIds:
    """Make sure that contents have rows; return their ids. Sorted, so that two workers never deadlock."""
    by_sha = {c.sha256: c for c in sorted(contents, key=lambda c: (c.sha256, c.info is not None))}  # with info wins
    decoded = [
        {"sha256": c.sha256, "bytes": c.bytes, "width": i.width, "height": i.height, "format": i.format,
         "pixels": i.pixels}
        for c in by_sha.values()
        if (i := c.info) is not None
    ]  # fmt: skip
    ids = _stored_images(connection, sorted(by_sha))
    new = insert_new(connection, Image, [row for row in decoded if row["sha256"] not in ids], Image.sha256)
    ids |= new
    raced = [sha256 for sha256, c in by_sha.items() if c.info is not None and sha256 not in ids]
    ids |= _stored_images(connection, raced)
    if any(row["sha256"] not in ids for row in decoded):
        raise StoreUnavailable("an image was removed by `producer forget` while it was captioned")  # the caller retries
    return ImageIds(ids, frozenset(new.values()))


def _stored_images(connection: Connection, sha256s: Sequence[str]) -> dict[str, int]:
    """Return the ids of those contents that have a row. `producer forget` cannot remove one until the commit."""
    if not sha256s:
        return {}
    query = sa.select(Image.sha256, Image.id).where(is_one_of(connection, Image.sha256, sha256s))
    return dict(connection.execute(query.with_for_update(read=True, key_share=True)).all())


def insert_captions(
    connection: Connection,
    claim: Claim,
    outcomes: Sequence[Outcome],
    images: ImageIds,
    provenance: Provenance,
    at: float,
) -> None:
    """Insert the captions of a batch, those that its near-duplicates share, and the features of its images.

    `at` is when they are written.
    """
    _insert_captions(connection, claim, outcomes, images, provenance, at)
    _share_captions(connection, claim, outcomes, images)
    insert_features(connection, provenance.encoder, _features(outcomes, images), images.new, force=claim.force)


def _insert_captions(
    connection: Connection,
    claim: Claim,
    outcomes: Sequence[Outcome],
    images: ImageIds,
    provenance: Provenance,
    at: float,
) -> None:
    """Insert the captions of a batch; captions that exist already stay as they are."""
    options_digest = claim.options.digest  # is computed
    rows = [
        {
            "image_id": images.ids[o.content.sha256],
            "source": Source.MACHINE,
            "model_id": claim.model_id,
            "options_digest": options_digest,
            "text": o.caption.text,
            "confidence": o.caption.confidence,
            "log_probability": round(o.caption.log_probability, 4),
            "weakest_word": o.caption.weakest_word,
            "word_log_probabilities": o.caption.word_log_probabilities,
            "alternatives": o.caption.alternatives,
            "runtime": provenance.runtime,
            "precision": provenance.precision,
            "software": provenance.software,
            "created_at": at,
            "unlike": o.caption.unlike,
        }
        for o in outcomes
        if o.caption is not None and o.content is not None
    ]
    if claim.force:
        redone = [images.ids[o.content.sha256] for o in outcomes if o.caption is not None and o.content is not None]
        drop_shared_captions(connection, claim.model_id, options_digest, redone)
    insert_for_images(connection, CaptionRow, rows, images.new)
    _insert_attention(connection, claim, outcomes, images)


def _insert_attention(connection: Connection, claim: Claim, outcomes: Sequence[Outcome], images: ImageIds) -> None:
    """Insert where the model looked, for captions that are as the model has written them now."""
    new = {
        images.ids[o.content.sha256]: (o.caption.text, o.caption.attention)
        for o in outcomes
        if o.caption is not None and o.content is not None and o.caption.attention is not None
    }
    if not new:
        return
    query = sa.select(CaptionRow.id, CaptionRow.image_id, CaptionRow.text).where(
        CaptionRow.image_id.in_(list(new)), CaptionRow.source == Source.MACHINE,
        CaptionRow.model_id == claim.model_id, CaptionRow.options_digest == claim.options.digest,
    )  # fmt: skip
    stored = [(row.id, *new[row.image_id], row.text) for row in connection.execute(query)]
    rows = [{"caption_id": i, "weights": weights} for i, text, weights, as_stored in stored if text == as_stored]
    insert_or_ignore(connection, Attention, sorted(rows, key=lambda row: row["caption_id"]))


def _share_captions(connection: Connection, claim: Claim, outcomes: Sequence[Outcome], images: ImageIds) -> None:
    """Give near-duplicates the caption of the image that they are like. It may be one of this batch."""
    sources = {
        images.ids[o.content.sha256]: o.shared_from
        for o in outcomes
        if o.shared_from is not None and o.content is not None
    }
    share_captions(connection, claim.model_id, claim.options.digest, sources)


def _features(outcomes: Sequence[Outcome], images: ImageIds) -> list[NewFeatures]:
    return [
        NewFeatures(images.ids[o.content.sha256], o.thumbnail, o.caption.vector if o.caption else None, o.shared_from)
        for o in outcomes
        if o.content is not None and o.thumbnail is not None
    ]
