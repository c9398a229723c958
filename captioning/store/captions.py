"""Which caption of an image counts, and rows of images with theirs: for showing, exporting and searching."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from captioning.calibration import calibration_of
from captioning.paths import absolute, hash_of, is_below, text_of
from captioning.store.database import Database
from captioning.store.schema import Caption, File, Image, Item, Model, Root
from captioning.values import ItemState, Source

_PAGE = 2000  # rows fetched at once


@dataclass(frozen=True)
class FileRow:
    """One file with what is known of it, as exports and tables show it."""

    path: str
    path_bytes: bytes
    sha256: str | None
    caption: str | None
    confidence: float | None  # 0 to 1
    model: str | None
    source: str | None
    width: int | None  # pixels
    height: int | None
    status: str  # captioned, failed or pending
    error: str | None
    captioned_at: str | None  # ISO 8601, UTC

    def as_export(self) -> dict[str, Any]:
        """Return the fields of an export line; `path_b64` only where the text isn't the path itself."""
        line = {
            "path": self.path,
            "sha256": self.sha256,
            "caption": self.caption,
            "confidence": self.confidence,
            "model": self.model,
            "width": self.width,
            "height": self.height,
            "status": self.status,
            "error": self.error,
            "captioned_at": self.captioned_at,
        }
        if self.path.encode() != self.path_bytes:
            line["path_b64"] = base64.b64encode(self.path_bytes).decode()
        return line


def preferred_caption_id(image_id: Any, model: str | None) -> sa.ScalarSelect[int]:
    """Return, as SQL, the id of *the* caption of an image. The view `caption_export` says the same.

    The newest human one, else the newest imported, else the asked model's (the default one's when none is
    asked), else the newest machine one.
    """
    c, m = aliased(Caption), aliased(Model)
    wanted = m.name == model if model is not None else m.is_default
    rank = sa.case(
        (c.source == Source.HUMAN, 0), (c.source == Source.IMPORTED, 1), (wanted, 2), else_=3
    )  # fmt: skip
    return (
        sa.select(c.id)
        .outerjoin(m, m.id == c.model_id)
        .where(c.image_id == image_id)
        .order_by(rank, c.created_at.desc(), c.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def select_file_rows(model: str | None) -> sa.Select[Any]:
    other = aliased(Item)
    last_item = sa.select(sa.func.max(other.id)).where(other.file_id == File.id).correlate(File).scalar_subquery()
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
        Model.name.label("model"),
        Item.state,
        Item.reason,
        Item.detail,
    )
    return (
        sa.select(*columns)
        .select_from(File)
        .join(Root, Root.id == File.root_id)
        .outerjoin(Image, Image.id == File.image_id)
        .outerjoin(Caption, Caption.id == preferred_caption_id(File.image_id, model))
        .outerjoin(Model, Model.id == Caption.model_id)
        .outerjoin(Item, Item.id == last_item)
    )


def to_file_row(row: sa.Row[Any]) -> FileRow:
    failed = row.text is None and row.state == ItemState.FAILED
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
        status="captioned" if row.text is not None else "failed" if failed else "pending",
        error=": ".join(part for part in (row.reason, row.detail) if part) if failed else None,
        captioned_at=None if row.created_at is None else _iso(row.created_at),
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def export_rows(
    db: Database, job_id: int | None = None, model: str | None = None, min_confidence: float | None = None
) -> Iterator[FileRow]:
    """Yield every file that is still there, or those of a job's items, a page at a time, in a stable order."""
    query = select_file_rows(model).order_by(File.id)
    query = query.where(File.missing_since.is_(None))
    if job_id is not None:
        query = query.where(sa.exists().where(Item.file_id == File.id, Item.job_id == job_id).correlate(File))
    if min_confidence is not None:
        query = query.where(Caption.confidence >= min_confidence)
    last = 0
    while True:  # by key, not by offset: a page costs the same at the ten-millionth row
        with db.reading() as connection:
            rows = connection.execute(query.where(File.id > last).limit(_PAGE)).all()
        yield from map(to_file_row, rows)
        if len(rows) < _PAGE:
            return
        last = rows[-1].file_id


def samples(db: Database, job_id: int, count: int) -> list[FileRow]:
    """Return a few captioned images of a job, spread over it."""
    done = (ItemState.CAPTIONED, ItemState.REUSED)
    with db.reading() as connection:
        mine = sa.select(Item.file_id).where(Item.job_id == job_id, Item.state.in_(done)).order_by(Item.file_id)
        ids = list(connection.execute(mine.limit(10_000)).scalars())
        some = ids[:: max(1, -(-len(ids) // count))]
        rows = connection.execute(select_file_rows(None).where(File.id.in_(some)).order_by(File.id)).all()
    return [to_file_row(row) for row in rows]


@dataclass(frozen=True)
class CaptionDetails:
    """One of the captions of an image."""

    text: str
    source: str
    model: str | None
    model_digest: str | None
    confidence: float | None
    weakest_word: str | None
    words: list[dict[str, Any]]  # each with its confidence
    alternatives: list[dict[str, Any]]
    runtime: str | None
    precision: str | None
    software: str | None
    created_at: str


def show(db: Database, path: bytes) -> tuple[FileRow, list[CaptionDetails]] | None:
    """Return a file by its path with all captions of its content, the counting one first; None if unknown."""
    path = absolute(path)
    with db.reading() as connection:
        roots = connection.execute(sa.select(Root.id, Root.path_bytes)).all()
        for root in sorted(roots, key=lambda root: -len(root.path_bytes)):
            if not is_below(path, root.path_bytes):
                continue
            below = path[len(root.path_bytes.rstrip(b"/")) + 1 :]
            where = (File.root_id == root.id, File.path_hash == hash_of(below))
            row = connection.execute(select_file_rows(None).add_columns(File.image_id).where(*where)).one_or_none()
            if row is not None:
                return to_file_row(row), _told(connection, row.image_id)
    return None


def _told(connection: sa.Connection, image_id: int | None) -> list[CaptionDetails]:
    if image_id is None:
        return []
    first = Caption.id == preferred_caption_id(sa.literal(image_id), None)
    rows = connection.execute(
        sa.select(Caption, Model.name.label("model"), Model.digest, Model.card)
        .outerjoin(Model, Model.id == Caption.model_id)
        .where(Caption.image_id == image_id)
        .order_by(first.desc(), Caption.created_at.desc(), Caption.id.desc())
    ).all()
    return [
        CaptionDetails(r.text, r.source, r.model, r.digest, r.confidence, r.weakest_word, _words(r), r.alternatives or [],
             r.runtime, r.precision, r.software, _iso(r.created_at))
        for r in rows
    ]  # fmt: skip


def _words(row: Any) -> list[dict[str, Any]]:
    if not row.word_log_probabilities:
        return []
    words = calibration_of(row.card or {}).of_words(row.text, row.word_log_probabilities)
    return [{"word": word, "confidence": confidence} for word, confidence in words]
