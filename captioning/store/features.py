"""Features of images: written with captions, read to find near-duplicates, which may share a caption."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from captioning.features import THUMBNAIL_BYTES, sketches, unpack_thumbnails, unpack_vectors
from captioning.near_duplicates import Images
from captioning.store.bulk import insert_for_images, insert_or_ignore
from captioning.store.database import Database, now
from captioning.store.schema import Caption, Edit, Encoder, Features, File, Image, Item
from captioning.values import Source

_PAGE = 20_000  # rows read in one transaction
_ASKED_AT_ONCE = 16_384  # sketches in one query; SQLite takes 32,766 parameters
_OWN = ("id", "original", "file_id", "withdrawn_at")  # columns of a caption that are not shared


@dataclass(frozen=True)
class NewFeatures:
    """The features of an image to be stored. Without a vector, that of the image of `shared_from` is taken."""

    image_id: int
    thumbnail: bytes
    vector: bytes | None
    shared_from: str | None  # SHA-256


# -- in the transaction that commits a batch --


def insert_features(
    connection: Connection, encoder: str, new: Sequence[NewFeatures], new_ids: Set[int], *, force: bool = False
) -> None:
    """Insert features of images that an encoder, given by its key, has seen. `new_ids`: images of this transaction.

    Those that exist already stay; with `force`, they are replaced where the encoder has seen the image now.
    """
    if not encoder or not new:
        return
    encoder_id = _encoder_id(connection, encoder)
    if force:
        redone = [one.image_id for one in new if one.vector is not None]
        old = (Features.encoder_id == encoder_id, Features.image_id.in_(redone))
        connection.execute(sa.delete(Features).where(*old))
    packed = np.frombuffer(b"".join(one.thumbnail for one in new), np.uint8).reshape(-1, THUMBNAIL_BYTES)
    sketch_of = dict(zip((one.image_id for one in new), sketches(unpack_thumbnails(packed)).tolist(), strict=True))
    for is_shared in (False, True):  # an image of this batch may be the source of another one
        batch = [one for one in new if (one.shared_from is not None) == is_shared]
        vectors = _vectors_of_contents(connection, encoder_id, {o.shared_from for o in batch if o.shared_from})
        rows = [
            {"image_id": one.image_id, "encoder_id": encoder_id, "vector": vector, "thumbnail": one.thumbnail,
             "sketch": sketch_of[one.image_id]}
            for one in batch
            if (vector := one.vector or vectors.get(one.shared_from or "")) is not None
        ]  # fmt: skip
        insert_for_images(connection, Features, rows, new_ids)


def _encoder_id(connection: Connection, key: str) -> int:
    query = sa.select(Encoder.id).where(Encoder.key == key)
    known: int | None = connection.execute(query).scalar()
    if known is not None:
        return known
    insert_or_ignore(connection, Encoder, [{"key": key}])
    return connection.execute(query).scalar_one()


def _vectors_of_contents(connection: Connection, encoder_id: int, sha256s: Collection[str]) -> dict[str, bytes]:
    if not sha256s:
        return {}
    query = sa.select(Image.sha256, Features.vector).join(Image, Image.id == Features.image_id)
    found = connection.execute(query.where(Features.encoder_id == encoder_id, Image.sha256.in_(sha256s)))
    return {row.sha256: row.vector for row in found}


def share_captions(connection: Connection, model_id: int, options_digest: str, sources: Mapping[int, str]) -> None:
    """Give images the captions of others; `sources` has the SHA-256 of the other content by the id of the image.

    The words are those of the model, also where a person changed them for the other image. An image gets no caption
    when the other one has none any more.
    """
    if not sources:
        return
    columns = Caption.__table__.columns
    query = sa.select(Image.sha256, *columns).join(Image, Image.id == Caption.image_id)
    query = query.where(Image.sha256.in_(set(sources.values())), *_made_for_its_image(model_id, options_digest))
    found = {row.sha256: row for row in connection.execute(query)}
    at = connection.execute(sa.select(now())).scalar_one()
    rows = [
        {column.name: getattr(row, column.name) for column in columns if column.name not in _OWN}
        | {"image_id": image_id, "shared_from": sha256, "text": row.original or row.text, "created_at": at}
        for image_id, sha256 in sorted(sources.items())
        if (row := found.get(sha256)) is not None
    ]
    insert_or_ignore(connection, Caption, rows)


def drop_shared_captions(
    connection: Connection, model_id: int, options_digest: str, image_ids: Collection[int]
) -> None:
    """Remove captions that images share, because the model has captioned the images. Edited ones stay."""
    edited = sa.exists().where(Edit.caption_id == Caption.id)
    shared = (Caption.source == Source.MACHINE, Caption.model_id == model_id, Caption.shared_from.is_not(None))
    of_images = (Caption.options_digest == options_digest, Caption.image_id.in_(image_ids), ~edited)
    connection.execute(sa.delete(Caption).where(*shared, *of_images))


def _made_for_its_image(model_id: int, options_digest: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for a caption by a model and options to be the image's own, and not rejected."""
    own = (Caption.shared_from.is_(None), Caption.withdrawn_at.is_(None))
    made = (Caption.source == Source.MACHINE, Caption.model_id == model_id, Caption.options_digest == options_digest)
    return (*made, *own)


# -- for workers --


def captioned_thumbnails(
    db: Database, model_id: int, options_digest: str, asked: Collection[int]
) -> list[tuple[str, bytes]]:
    """Return SHA-256 and thumbnail of the images with one of some sketches that a model has captioned with options."""
    wanted, found = sorted(asked), []
    query = (
        sa.select(Image.sha256, Features.thumbnail)
        .join(Features, Features.image_id == Image.id)
        .join(Caption, Caption.image_id == Image.id)
        .where(*_made_for_its_image(model_id, options_digest))
    )
    with db.reading() as connection:
        for start in range(0, len(wanted), _ASKED_AT_ONCE):
            part = query.where(Features.sketch.in_(wanted[start : start + _ASKED_AT_ONCE]))
            found += [(row.sha256, row.thumbnail) for row in connection.execute(part)]
    return found


# -- for the producer --


@dataclass(frozen=True)
class Seen:
    """Images that one encoder has seen."""

    image_ids: NDArray[np.int64]  # (N,), ascending
    images: Images


def encoder_of_most(db: Database, image_id: int | None = None) -> int | None:
    """Return the id of the encoder that has seen most images, of those that have seen an image if it is given."""
    query = sa.select(Features.encoder_id).group_by(Features.encoder_id)
    if image_id is not None:
        query = query.where(
            Features.encoder_id.in_(sa.select(Features.encoder_id).where(Features.image_id == image_id))
        )
    with db.reading() as connection:
        most = query.order_by(sa.func.count().desc(), Features.encoder_id.desc()).limit(1)
        return connection.execute(most).scalar()


def vector_blocks(db: Database, encoder_id: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int8]]]:
    """Yield ids and vectors of all images that an encoder has seen and a file that is not missing holds."""
    for rows in _pages(db, encoder_id, Features.vector):
        ids = np.array([row.image_id for row in rows], np.int64)
        yield ids, unpack_vectors([row.vector for row in rows])


def load(db: Database, encoder_id: int, job: int | None = None) -> Seen:
    """Return all images that an encoder has seen, or those of a job: 500 bytes an image."""
    ids, vectors, thumbnails = [np.zeros(0, np.int64)], list[bytes](), list[bytes]()
    for rows in _pages(db, encoder_id, Features.vector, Features.thumbnail, job=job):
        ids.append(np.array([row.image_id for row in rows], np.int64))
        vectors.append(b"".join(row.vector for row in rows))
        thumbnails.append(b"".join(row.thumbnail for row in rows))
    return Seen(np.concatenate(ids), Images.unpack(vectors, thumbnails))


def _pages(db: Database, encoder_id: int, *columns: Any, job: int | None = None) -> Iterator[Sequence[Any]]:
    """Yield pages of rows with the id of an image and some columns, by id."""
    held = sa.exists().where(File.image_id == Features.image_id, File.missing_since.is_(None))
    if job is not None:
        held = held.where(Item.file_id == File.id, Item.job_id == job)
    query = sa.select(Features.image_id, *columns).where(Features.encoder_id == encoder_id, held.correlate(Features))
    last = -1
    while True:
        with db.reading() as connection:
            rows = connection.execute(
                query.where(Features.image_id > last).order_by(Features.image_id).limit(_PAGE)
            ).all()
        if rows:
            yield rows
        if len(rows) < _PAGE:
            return
        last = rows[-1].image_id
