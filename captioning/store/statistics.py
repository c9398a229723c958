"""Numbers about all files and captions, and lists of files in an order that people choose."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.store.bulk import is_one_of
from captioning.store.captions import FileRow, select_file_rows, to_file_row
from captioning.store.conditions import matching
from captioning.store.database import Database
from captioning.store.preferred import is_outdated, is_rejected, shown_caption_id
from captioning.store.schema import Caption, File, Model, Root, path_start

ORDERS: dict[str, Any] = {
    "path": File.path,
    "confidence": Caption.confidence,
    "time": Caption.created_at,
    "size": File.size,
}
"""What files can be sorted by; `time` is when the caption was written, `size` is in bytes."""

_LONGEST_PAGE = 10_000  # captions looked at together

STATUSES = ("captioned", "rejected", "failed", "pending", "missing")


@dataclass(frozen=True)
class ModelNumbers:
    """The captions of a model that files show."""

    model: str
    files: int
    confidence: float | None  # mean, 0 to 1
    unlike: int


@dataclass(frozen=True)
class Statistics:
    """How many files there are of each kind."""

    files: int
    bytes: int
    images: int  # different contents
    captioned: int
    rejected: int  # a person rejected their captions, and there is no other
    failed: int
    pending: int
    missing: int
    human: int
    imported: int
    edited: int
    image_changed: int
    models: tuple[ModelNumbers, ...]


def statistics(db: Database) -> Statistics:
    """Count everything; reads all files once."""
    here = File.missing_since.is_(None)
    shown = (
        sa.select(
            File.id, Caption.source, Caption.confidence, Caption.unlike, Caption.original, Caption.model_id,
            Caption.id.label("caption_id"), File.failed_reason, is_outdated().label("outdated"),
            is_rejected().label("rejected"),
        )
        .outerjoin(Caption, Caption.id == shown_caption_id(None))
        .where(here)
        .subquery()
    )  # fmt: skip

    def number(condition: Any) -> Any:
        return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)

    c = shown.c
    counts = sa.select(
        sa.func.count(),
        number(c.caption_id.is_not(None)),
        number(c.rejected),
        number(sa.and_(c.caption_id.is_(None), ~c.rejected, c.failed_reason.is_not(None))),
        number(c.source == "human"),
        number(c.source == "imported"),
        number(c.original.is_not(None)),
        number(c.outdated),
    )
    by_model = (
        sa.select(Model.name, sa.func.count(), sa.func.avg(c.confidence), number(c.unlike))
        .join(Model, Model.id == c.model_id)
        .group_by(Model.name)
        .order_by(sa.func.count().desc(), Model.name)
    )
    with db.reading() as connection:
        files, captioned, rejected, failed, human, imported, edited, changed = connection.execute(counts).one()
        size = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(File.size), 0)).where(here)).scalar_one()
        images = connection.execute(sa.select(sa.func.count(File.image_id.distinct())).where(here)).scalar_one()
        missing = connection.execute(sa.select(sa.func.count()).where(~here)).scalar_one()
        models = tuple(
            ModelNumbers(name, n, None if mean is None else round(float(mean), 4), int(unlike))
            for name, n, mean, unlike in connection.execute(by_model)
        )
    pending = files - int(captioned) - int(rejected) - int(failed)
    return Statistics(
        files, int(size), images, int(captioned), int(rejected), int(failed), pending, missing,
        int(human), int(imported), int(edited), int(changed), models,
    )  # fmt: skip


def list_files(
    db: Database, limit: int, *, sort: str, descending: bool, status: str | None, where: str
) -> list[FileRow]:
    """Return the first files in an order of ORDERS, of a status of STATUSES (None: all that are here).

    Files without a value come last. Raises UsageError for a query that cannot be read.
    """
    is_here = File.missing_since.is_not(None) if status == "missing" else File.missing_since.is_(None)
    query = select_file_rows(None).where(is_here)
    if where:
        query = query.where(matching(db, where))
    has_status = {
        "captioned": Caption.id.is_not(None),
        "rejected": is_rejected(),
        "failed": sa.and_(Caption.id.is_(None), ~is_rejected(), File.failed_reason.is_not(None)),
        "pending": sa.and_(Caption.id.is_(None), ~is_rejected(), File.failed_reason.is_(None)),
    }
    if status in has_status:
        query = query.where(has_status[status])
    if sort == "path":
        return _by_path(db, query, limit, descending=descending)
    if sort == "size":
        order = (File.size.desc() if descending else File.size, File.id)
        if not where and status not in has_status:  # then no caption is looked for but those shown
            query = query.where(File.id.in_(sa.select(File.id).where(is_here).order_by(*order).limit(limit)))
        with db.reading() as connection:
            return list(map(to_file_row, connection.execute(query.order_by(*order).limit(limit))))
    has_caption = status not in has_status or status == "captioned"
    return _by_caption(db, query, ORDERS[sort], limit, descending=descending, has_caption=has_caption)


def _by_caption(
    db: Database, query: sa.Select[Any], key: Any, limit: int, *, descending: bool, has_caption: bool
) -> list[FileRow]:
    """Return the first rows by a column of the captions that they show: captions in the order of an index, page by
    page, and the files that show them; then files without a value, by their ids.
    """
    rows: list[FileRow] = []
    last: tuple[Any, int] | None = None
    size = 4 * limit
    with db.reading() as connection:
        while has_caption and len(rows) < limit:
            page = _page(connection, key, last, size, descending=descending)
            shown = query.where(
                is_one_of(connection, File.id, _files_of(connection, [row.id for row in page])),
                is_one_of(connection, Caption.id, [row.id for row in page]),
            )
            order = (key.desc(), Caption.id.desc()) if descending else (key, Caption.id)
            rows += map(to_file_row, connection.execute(shown.order_by(*order, File.id).limit(limit - len(rows))))
            if len(page) < size:
                break
            last, size = (page[-1].key, page[-1].id), min(4 * size, _LONGEST_PAGE)
        if len(rows) < limit:
            others = query.where(key.is_(None)).order_by(File.id).limit(limit - len(rows))
            rows += map(to_file_row, connection.execute(others))
    return rows


def _page(
    connection: Connection, key: Any, last: tuple[Any, int] | None, size: int, *, descending: bool
) -> Sequence[sa.Row[Any]]:
    """Return the ids of the captions that follow the last one by a column, with its values."""
    query = sa.select(Caption.id, key.label("key")).where(key.is_not(None))
    if last is not None:
        place = sa.tuple_(key, Caption.id)
        query = query.where(place < last if descending else place > last)
    order = (key.desc(), Caption.id.desc()) if descending else (key, Caption.id)
    return connection.execute(query.order_by(*order).limit(size)).all()


def _files_of(connection: Connection, caption_ids: Sequence[int]) -> set[int]:
    """Return the files that could show captions: those with their content, and those that they were written for."""
    of_content = sa.select(File.id).join(Caption, Caption.image_id == File.image_id)
    of_file = sa.select(Caption.file_id).where(Caption.file_id.is_not(None))
    chosen = is_one_of(connection, Caption.id, caption_ids)
    found: sa.CompoundSelect[Any] = sa.union(of_content.where(chosen), of_file.where(chosen))
    return set(connection.execute(found).scalars().all())


def _by_path(db: Database, query: sa.Select[Any], limit: int, *, descending: bool) -> list[FileRow]:
    """Return the first rows by path: root by root, so that an index has them in this order."""
    rows: list[FileRow] = []
    keys = (path_start(), File.path)
    ordered = (*(key.desc() if descending else key for key in keys), File.id)
    with db.reading() as connection:
        roots = sa.select(Root.id).order_by(Root.path.desc() if descending else Root.path, Root.id)
        for root_id in connection.execute(roots).scalars().all():
            of_root = query.where(File.root_id == root_id).order_by(*ordered).limit(limit - len(rows))
            rows += map(to_file_row, connection.execute(of_root))
            if len(rows) == limit:
                break
    return rows
