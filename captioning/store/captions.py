"""The preferred caption of each image, and rows of files with their captions for `show`, `export` and `search`."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from captioning.calibration import calibration_of
from captioning.paths import possible_paths, text_of
from captioning.store.database import Database
from captioning.store.files import at_or_below, find_file, roots
from captioning.store.schema import Caption, File, Image, Item, Model, Root
from captioning.values import ItemState, Source

EXPORT_FIELDS = (
    "path", "sha256", "caption", "confidence", "model", "width", "height", "status", "error", "captioned_at"
)  # fmt: skip
"""The first fields of an export, in order: attributes of `FileRow`."""

LATER_FIELDS = ("path_b64", "unlike")
"""The fields after them, in order: each came later, so that the places of the others stay."""

_PAGE_SIZE = 2000  # rows fetched at once


@dataclass(frozen=True)
class FileRow:
    """One file with its preferred caption, as tables and exports show it."""

    path: str  # bytes that are not UTF-8 are %XX
    path_bytes: bytes
    sha256: str | None  # digest of the content
    caption: str | None  # the preferred caption of the content
    confidence: float | None  # 0 to 1
    model: str | None  # name of the model that made the caption
    source: str | None  # machine, human or imported
    width: int | None  # pixels, upright
    height: int | None  # pixels, upright
    status: str  # captioned, failed, pending, or missing when the file is gone
    error: str | None  # why there is no caption, if it failed
    captioned_at: str | None  # ISO 8601, UTC
    unlike: bool | None  # whether the image is unlike those that the model learned from; None: it cannot tell

    def as_export(self) -> dict[str, Any]:
        """Return the fields of an export line; `path_b64` is there only when `path` as UTF-8 is not the exact path."""
        line = {name: getattr(self, name) for name in EXPORT_FIELDS}
        if self.path.encode() != self.path_bytes:
            line["path_b64"] = base64.b64encode(self.path_bytes).decode()
        return line | {"unlike": self.unlike}


def preferred_caption_id(image_id: Any, model: str | None) -> sa.ScalarSelect[int]:
    """Return, as SQL, the id of the preferred caption of an image. The view `caption_export` has the same rule.

    The preferred caption is the newest human one, else the newest imported one, else the one of the model named `model`
    (of the default model when None), else the newest machine one.
    """
    c, m = aliased(Caption), aliased(Model)
    by_model = m.name == model if model is not None else m.is_default
    rank = sa.case((c.source == Source.HUMAN, 0), (c.source == Source.IMPORTED, 1), (by_model, 2), else_=3)
    return (
        sa.select(c.id)
        .outerjoin(m, m.id == c.model_id)
        .where(c.image_id == image_id)
        .order_by(rank, c.created_at.desc(), c.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def select_file_rows(model: str | None) -> sa.Select[Any]:
    """Return a query for files with their preferred captions; `to_file_row` reads its rows."""
    columns: tuple[Any, ...] = (
        Root.path_bytes.label("root"),
        File.id.label("file_id"),
        File.path_bytes,
        Image.sha256,
        Image.width,
        Image.height,
        Caption.text,
        Caption.confidence,
        Caption.source,
        Caption.created_at,
        Caption.unlike,
        Model.name.label("model"),
        File.failed_reason,
        File.failed_detail,
        File.missing_since,
    )
    return (
        sa.select(*columns)
        .select_from(File)
        .join(Root, Root.id == File.root_id)
        .outerjoin(Image, Image.id == File.image_id)
        .outerjoin(Caption, Caption.id == preferred_caption_id(File.image_id, model))
        .outerjoin(Model, Model.id == Caption.model_id)
    )


def to_file_row(row: sa.Row[Any]) -> FileRow:
    """Convert a row of `select_file_rows`."""
    failed = row.text is None and row.failed_reason is not None
    path = row.root.rstrip(b"/") + b"/" + row.path_bytes
    return FileRow(
        path=text_of(path),
        path_bytes=path,
        sha256=row.sha256,
        caption=row.text,
        confidence=None if row.confidence is None else round(row.confidence, 4),
        model=row.model,
        source=row.source,
        width=row.width,
        height=row.height,
        status=_status(row),
        error=": ".join(part for part in (row.failed_reason, row.failed_detail) if part) if failed else None,
        captioned_at=None if row.created_at is None else _iso(row.created_at),
        unlike=row.unlike,
    )


def _status(row: sa.Row[Any]) -> str:
    if row.missing_since is not None:
        return "missing"
    if row.text is not None:
        return "captioned"
    return "failed" if row.failed_reason is not None else "pending"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def export_rows(
    db: Database,
    job_id: int | None = None,
    model: str | None = None,
    min_confidence: float | None = None,
    *,
    missing: bool = False,
) -> Iterator[FileRow]:
    """Yield every file, or those of one job, by id; files that are missing only when `missing` is set."""
    query = select_file_rows(model).order_by(File.id)
    if not missing:
        query = query.where(File.missing_since.is_(None))
    if job_id is not None:
        query = query.where(sa.exists().where(Item.file_id == File.id, Item.job_id == job_id).correlate(File))
    if min_confidence is not None:
        query = query.where(Caption.confidence >= min_confidence)
    last_id = 0
    while True:  # a page starts after an id, not at an offset, so that it costs the same at the ten-millionth row
        with db.reading() as connection:
            rows = connection.execute(query.where(File.id > last_id).limit(_PAGE_SIZE)).all()
        yield from map(to_file_row, rows)
        if len(rows) < _PAGE_SIZE:
            return
        last_id = rows[-1].file_id


def samples(db: Database, job_id: int, count: int) -> list[FileRow]:
    """Return up to `count` captioned files of a job, spread evenly over its first ten thousand by id."""
    done = (ItemState.CAPTIONED, ItemState.REUSED)
    captioned = sa.select(Item.file_id).where(Item.job_id == job_id, Item.state.in_(done)).order_by(Item.file_id)
    with db.reading() as connection:
        ids = list(connection.execute(captioned.limit(10_000)).scalars())
        chosen = ids[:: max(1, -(-len(ids) // count))]
        rows = connection.execute(select_file_rows(None).where(File.id.in_(chosen)).order_by(File.id)).all()
    return [to_file_row(row) for row in rows]


@dataclass(frozen=True)
class CaptionDetails:
    """One caption of an image, with its provenance."""

    text: str
    source: str
    model: str | None
    model_digest: str | None
    confidence: float | None  # 0 to 1
    unlike: bool | None  # as in FileRow
    weakest_word: str | None
    words: list[dict[str, Any]]  # each with its confidence
    alternatives: list[dict[str, Any]]  # text and log-probability (nats) of other hypotheses
    runtime: str | None
    precision: str | None
    software: str | None
    created_at: str  # ISO 8601, UTC


def show(db: Database, path: bytes) -> tuple[FileRow, list[CaptionDetails]] | None:
    """Return a file with all captions of its image, the preferred one first; None if the store does not know it.

    The path is one that a person names: see `possible_paths`.
    """
    for candidate in possible_paths(path):
        file_id = find_file(db, candidate)
        if file_id is not None:
            query = select_file_rows(None).add_columns(File.image_id).where(File.id == file_id)
            with db.reading() as connection:
                row = connection.execute(query).one_or_none()
                return None if row is None else (to_file_row(row), _caption_details(connection, row.image_id))
    return None


def files_below(db: Database, folder: bytes, count: int, *, missing: bool = False) -> list[FileRow]:
    """Return up to `count` files at or below a path that are missing, or are not, in the order in which they came."""
    known_roots = roots(db)
    for candidate in possible_paths(folder):
        inside = sa.or_(sa.false(), *(at_or_below(root, candidate) for root in known_roots))
        query = select_file_rows(None).where(inside, File.missing_since.is_not(None) == missing)
        with db.reading() as connection:
            rows = connection.execute(query.order_by(File.id).limit(count)).all()
        if rows:
            return [to_file_row(row) for row in rows]
    return []


def _caption_details(connection: sa.Connection, image_id: int | None) -> list[CaptionDetails]:
    if image_id is None:
        return []
    is_preferred = Caption.id == preferred_caption_id(sa.literal(image_id), None)
    rows = connection.execute(
        sa.select(Caption, Model.name.label("model"), Model.digest, Model.card)
        .outerjoin(Model, Model.id == Caption.model_id)
        .where(Caption.image_id == image_id)
        .order_by(is_preferred.desc(), Caption.created_at.desc(), Caption.id.desc())
    ).all()
    return [
        CaptionDetails(
            text=row.text,
            source=row.source,
            model=row.model,
            model_digest=row.digest,
            confidence=row.confidence,
            unlike=row.unlike,
            weakest_word=row.weakest_word,
            words=_word_confidences(row),
            alternatives=row.alternatives or [],
            runtime=row.runtime,
            precision=row.precision,
            software=row.software,
            created_at=_iso(row.created_at),
        )
        for row in rows
    ]


def _word_confidences(row: Any) -> list[dict[str, Any]]:
    if not row.word_log_probabilities:
        return []
    words = calibration_of(row.card or {}).of_words(row.text, row.word_log_probabilities)
    return [{"word": word, "confidence": confidence} for word, confidence in words]
