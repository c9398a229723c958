"""Rows of files with the captions that they show, for `list`, `export` and `search`."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from captioning.paths import possible_paths, text_of
from captioning.store.conditions import matching
from captioning.store.database import Database
from captioning.store.files import at_or_below, roots
from captioning.store.pairs import partner_path
from captioning.store.preferred import fitting_caption_id, is_outdated, is_rejected, shown_caption_id
from captioning.store.schema import Caption, File, Image, Item, Job, Model, Root
from captioning.values import ItemState, Source

EXPORT_FIELDS = (
    "path", "sha256", "caption", "confidence", "model", "width", "height", "status", "error", "captioned_at"
)  # fmt: skip
"""The first fields of an export, in order: attributes of `FileRow`."""

LATER_FIELDS = ("path_b64", "source", "edited", "image_changed", "caption_digest", "unlike")
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
    status: str  # captioned, rejected, failed, pending, or missing when the file is gone
    error: str | None  # why there is no caption, if it failed
    captioned_at: str | None  # ISO 8601, UTC
    unlike: bool | None  # whether the image is unlike those that the model learned from; None: it cannot tell
    text: str | None = None  # the caption with words around it, in an export that asks for them
    edited: bool = False  # whether a person changed words of the model's caption
    image_changed: bool = False  # whether a person wrote the caption for other content than the file has now
    format: str | None = None  # of the content: JPEG, PNG, ...
    root_bytes: bytes = b"/"  # path of the folder that was submitted
    file_id: int = 0
    size: int = 0  # bytes, when the file was last seen
    mtime_ns: int = 0  # time of its last modification then
    caption_id: int | None = None
    partner: str | None = None  # path of the image beside it that has the same caption

    @property
    def caption_digest(self) -> str | None:
        """What an import compares the caption with, to see whether it was edited in the file; None without one."""
        return None if self.caption is None else caption_digest(self.caption)

    @property
    def version(self) -> str:
        """Identify the caption that the file shows and its text, so that an edit can tell whether it is still so."""
        return f"{self.caption_id or 0}-{caption_digest(self.caption)}"

    def as_export(self) -> dict[str, Any]:
        """Return the fields of an export line; `path_b64` is there only when `path` as UTF-8 is not the exact path."""
        line = {name: getattr(self, name) for name in EXPORT_FIELDS}
        if self.path.encode() != self.path_bytes:
            line["path_b64"] = base64.b64encode(self.path_bytes).decode()
        line |= {name: getattr(self, name) for name in LATER_FIELDS[1:-1]}
        line |= {} if self.text is None else {"text": self.text}
        return line | {LATER_FIELDS[-1]: getattr(self, LATER_FIELDS[-1])}


def caption_digest(caption: str | None) -> str:
    """Identify the text of a caption."""
    return hashlib.blake2b((caption or "").encode(), digest_size=8).hexdigest()


def select_file_rows(model: str | None, *, fitting: bool = False) -> sa.Select[Any]:
    """Return a query for files with the captions that they show; `to_file_row` reads its rows.

    With `fitting`, a caption that was written for content that the file has no more is not shown.
    """
    columns: tuple[Any, ...] = (
        Root.path_bytes.label("root"),
        File.id.label("file_id"),
        File.path_bytes,
        File.size,
        File.mtime_ns,
        Image.sha256,
        Image.width,
        Image.height,
        Image.format,
        Caption.id.label("caption_id"),
        Caption.text,
        Caption.confidence,
        Caption.source,
        Caption.created_at,
        Caption.unlike,
        Caption.original.is_not(None).label("edited"),
        is_outdated().label("image_changed"),
        Model.name.label("model"),
        is_rejected().label("rejected"),
        File.failed_reason,
        File.failed_detail,
        File.missing_since,
        File.partner,
    )
    return (
        sa.select(*columns)
        .select_from(File)
        .join(Root, Root.id == File.root_id)
        .outerjoin(Image, sa.and_(Image.id == File.image_id, File.partner.is_(None)))
        .outerjoin(Caption, Caption.id == (fitting_caption_id if fitting else shown_caption_id)(model))
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
        captioned_at=None if row.created_at is None else iso_time(row.created_at),
        unlike=row.unlike,
        edited=bool(row.edited) and row.text is not None,
        image_changed=bool(row.image_changed),
        format=row.format,
        root_bytes=row.root,
        file_id=row.file_id,
        size=row.size,
        mtime_ns=row.mtime_ns,
        caption_id=row.caption_id,
        partner=None if row.partner is None else text_of(partner_path(path, row.partner)),
    )


def _status(row: sa.Row[Any]) -> str:
    if row.missing_since is not None:
        return "missing"
    if row.text is not None:
        return "captioned"
    if row.rejected:
        return "rejected"
    return "failed" if row.failed_reason is not None else "pending"


def iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Selection:
    """Which files an export has."""

    job: int | None = None
    model: str | None = None  # its captions go before those of the default model
    min_confidence: float | None = None  # of captions by models
    min_size: int | None = None  # pixels of the shorter side
    source: str | None = None
    unlike: bool | None = None
    where: str = ""  # a query of captioning.store.query
    missing: bool = False  # also files that are gone
    fitting: bool = False  # only captions that fit the present content, see `select_file_rows`; no files without one
    partners: bool = True  # also files that share the caption of an image beside them


def export_rows(db: Database, selection: Selection = Selection()) -> Iterator[FileRow]:
    """Yield the files of a selection, by id. Raises UsageError for a query that cannot be read."""
    query = select_file_rows(selection.model, fitting=selection.fitting).order_by(File.id)
    query = query.where(*_conditions(db, selection))
    last_id = 0
    while True:  # a page starts after an id, not at an offset, so that it costs the same at the ten-millionth row
        with db.reading() as connection:
            rows = connection.execute(query.where(File.id > last_id).limit(_PAGE_SIZE)).all()
        yield from map(to_file_row, rows)
        if len(rows) < _PAGE_SIZE:
            return
        last_id = rows[-1].file_id


def count_rows(db: Database, selection: Selection) -> int:
    """Return how many files a selection has. Raises UsageError for a query that cannot be read."""
    query = select_file_rows(selection.model, fitting=selection.fitting).where(*_conditions(db, selection))
    with db.reading() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one())


def _conditions(db: Database, selection: Selection) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [] if selection.missing else [File.missing_since.is_(None)]
    if not selection.partners:
        found.append(File.partner.is_(None))
    if selection.job is not None:
        found.append(sa.exists().where(Item.file_id == File.id, Item.job_id == selection.job).correlate(File))
    if selection.min_confidence is not None:
        by_people = Caption.source != Source.MACHINE
        found.append(sa.or_(Caption.confidence >= selection.min_confidence, by_people))
    if selection.min_size is not None:
        found += [Image.width >= selection.min_size, Image.height >= selection.min_size]
    if selection.source is not None:
        found.append(Caption.source == selection.source)
    if selection.unlike is not None:
        found.append(sa.func.coalesce(Caption.unlike, sa.false()) == selection.unlike)
    if selection.where:
        found.append(matching(db, selection.where))
    if selection.fitting:
        found.append(Caption.id.is_not(None))
    return found


def samples(db: Database, job_id: int, count: int) -> list[FileRow]:
    """Return up to `count` captioned files of a job, spread evenly over its first ten thousand by id."""
    done = (ItemState.CAPTIONED, ItemState.REUSED)
    captioned = sa.select(Item.file_id).where(Item.job_id == job_id, Item.state.in_(done)).order_by(Item.file_id)
    captioned = captioned.join(File, File.id == Item.file_id).where(File.partner.is_(None))
    of_job = sa.select(Model.name).join(Job, Job.model_id == Model.id).where(Job.id == job_id)
    with db.reading() as connection:
        model = connection.execute(of_job).scalar()
        ids = list(connection.execute(captioned.limit(10_000)).scalars())
        chosen = ids[:: max(1, -(-len(ids) // count))]
        rows = connection.execute(select_file_rows(model).where(File.id.in_(chosen)).order_by(File.id)).all()
    return [to_file_row(row) for row in rows]


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
