"""Files with all captions of their images, not only the ones that they show: for `show`, the gallery and the review."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import sqlalchemy as sa

from captioning.calibration import Calibration, calibration_of
from captioning.paths import possible_paths
from captioning.store.captions import FileRow, iso_time, select_file_rows, to_file_row
from captioning.store.database import Database
from captioning.store.files import find_file
from captioning.store.schema import Attention, Caption, File, Image, Item, Model, Root

_PAGE = 500  # files, of which all captions are fetched at once


@dataclass(frozen=True)
class CaptionDetails:
    """One caption of an image, with its provenance."""

    text: str
    source: str
    model: str | None
    model_digest: str | None
    confidence: float | None  # 0 to 1
    unlike: bool | None  # as in FileRow
    original: str | None  # what the model wrote, where a person changed words of it
    weakest_word: str | None
    words: list[dict[str, Any]]  # each with its confidence
    alternatives: list[dict[str, Any]]  # text and log-probability (nats) of other hypotheses
    runtime: str | None
    precision: str | None
    software: str | None
    created_at: str  # ISO 8601, UTC
    shared_from: str | None = None  # path of the near-duplicate that the model captioned; SHA-256 if no file has it


@dataclass(frozen=True)
class DetailedCaption:
    """A caption, and where the model looked for each of its words."""

    details: CaptionDetails
    attention: bytes | None  # one byte for each word and cell of the square grid; None: it was not kept


@dataclass(frozen=True)
class DetailedFile:
    """A file with all captions of it and of its content, the one that it shows first."""

    file: FileRow
    captions: tuple[DetailedCaption, ...]
    jobs: tuple[int, ...]  # that had the file


def show(db: Database, path: bytes) -> tuple[FileRow, list[CaptionDetails]] | None:
    """Return a file with all captions of its image, the preferred one first; None if the store does not know it.

    The path is one that a person names: see `possible_paths`.
    """
    for candidate in possible_paths(path):
        file_id = find_file(db, candidate)
        if file_id is not None:
            found = detailed_files(db, [file_id])
            return (found[0].file, [caption.details for caption in found[0].captions]) if found else None
    return None


def with_details(db: Database, rows: Iterable[FileRow]) -> Iterator[DetailedFile]:
    """Yield files with all their captions, in the order of the rows."""
    calibrations = _calibrations(db)
    remaining = iter(rows)
    while page := list(islice(remaining, _PAGE)):
        with db.reading() as connection:
            detailed = list(_add_details(connection, page, calibrations))
        yield from detailed


def detailed_files(db: Database, file_ids: Sequence[int]) -> list[DetailedFile]:
    """Return files with all their captions, in this order, without those that the store does not know."""
    with db.reading() as connection:
        found = connection.execute(select_file_rows(None).where(File.id.in_(file_ids))).all()
    rows = {row.file_id: to_file_row(row) for row in found}
    return list(with_details(db, [rows[i] for i in file_ids if i in rows]))


def _calibrations(db: Database) -> Callable[[int], Calibration]:
    """Return what looks up the calibration of a model by its id, each once: a card has some kilobytes."""

    @cache
    def look_up(model_id: int) -> Calibration:
        with db.reading() as connection:
            card = connection.execute(sa.select(Model.card).where(Model.id == model_id)).scalar()
        return calibration_of(card or {})

    return look_up


def _add_details(
    connection: sa.Connection, rows: Sequence[FileRow], calibrations: Callable[[int], Calibration]
) -> Iterator[DetailedFile]:
    ids = [row.file_id for row in rows]
    contents = connection.execute(sa.select(File.id, File.image_id).where(File.id.in_(ids)))
    content = {row.id: row.image_id for row in contents}
    jobs: dict[int, list[int]] = defaultdict(list)
    items = sa.select(Item.file_id, Item.job_id).where(Item.file_id.in_(ids)).order_by(Item.job_id)
    for item in connection.execute(items):
        jobs[item.file_id].append(item.job_id)
    captions = connection.execute(
        sa.select(Caption, Model.name.label("model"), Model.digest, Attention.weights, _source().label("path"))
        .outerjoin(Model, Model.id == Caption.model_id)
        .outerjoin(Attention, Attention.caption_id == Caption.id)
        .where(sa.or_(Caption.file_id.in_(ids), Caption.image_id.in_(set(content.values()) - {None})))
        .where(Caption.withdrawn_at.is_(None))
        .order_by(Caption.created_at.desc(), Caption.id.desc())
    ).all()
    of_file, of_content = defaultdict(list), defaultdict(list)
    for caption in captions:
        of_content[caption.image_id].append(caption)
        of_file[caption.file_id].append(caption)
    for row in rows:
        own = {caption.id: caption for caption in of_file[row.file_id] + of_content[content.get(row.file_id)]}
        in_order = sorted(own.values(), key=lambda c: (c.id != row.caption_id, -c.created_at, -c.id))
        detailed = tuple(DetailedCaption(_details(c, calibrations), _attention(c)) for c in in_order)
        yield DetailedFile(row, detailed, tuple(jobs[row.file_id]))


def _details(row: Any, calibrations: Callable[[int], Calibration]) -> CaptionDetails:
    return CaptionDetails(
        text=row.text,
        source=row.source,
        model=row.model,
        model_digest=row.digest,
        confidence=row.confidence,
        unlike=row.unlike,
        original=row.original,
        weakest_word=None if row.original else row.weakest_word,
        words=_word_confidences(row, calibrations),
        alternatives=row.alternatives or [],
        runtime=row.runtime,
        precision=row.precision,
        software=row.software,
        created_at=iso_time(row.created_at),
        shared_from=row.path or row.shared_from,
    )


def _source() -> sa.ScalarSelect[str]:
    """Return, as SQL, the path of a file with the content that a caption was made for, where it is shared."""
    return (
        sa.select(sa.func.rtrim(Root.path, "/") + "/" + File.path)
        .select_from(File)
        .join(Root, Root.id == File.root_id)
        .join(Image, Image.id == File.image_id)
        .where(Image.sha256 == Caption.shared_from, File.partner.is_(None))
        .order_by(File.missing_since.is_not(None), File.id)
        .limit(1)
        .correlate(Caption)
        .scalar_subquery()
    )


def _word_confidences(row: Any, calibrations: Callable[[int], Calibration]) -> list[dict[str, Any]]:
    if not row.word_log_probabilities or row.original is not None:  # they are of the words before an edit
        return []
    words = calibrations(row.model_id).of_words(row.text, row.word_log_probabilities)
    return [{"word": word, "confidence": confidence} for word, confidence in words]


def _attention(row: Any) -> bytes | None:
    return None if row.original is not None else row.weights  # it is of the words before an edit
