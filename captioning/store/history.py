"""What was done to captions, and how it is undone.

An undo takes a person's caption back, puts replaced words back, and shows a rejected caption again, but only where
nobody has changed the caption since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import UsageError
from captioning.store.captions import iso_time
from captioning.store.database import Database, now
from captioning.store.edits import begin_change
from captioning.store.schema import Caption, Change, Edit, File

_PAGE = 2000  # edits that are taken back at once


@dataclass(frozen=True)
class Undone:
    """What an undo did."""

    change: int
    verb: str
    restored: int  # captions that are as they were before the change
    kept: int  # captions that somebody has changed since


@dataclass(frozen=True)
class HistoryEntry:
    """One edit of a file's captions."""

    change: int
    at: str  # ISO 8601, UTC
    person: str
    verb: str
    before: str | None
    after: str | None
    undone: bool


def undo(db: Database, change_id: int | None = None) -> Undone:
    """Take a change back, the last one if none is named. Raises UsageError when there is none, or it is undone."""
    with db.writing() as connection:
        change = _to_undo(connection, change_id)
        undoing = begin_change(connection, "undo", {"change": change.id})
        restored = kept = last = 0
        edits = sa.select(Edit.id, Edit.caption_id, Edit.file_id, Edit.before, Edit.after).where(
            Edit.change_id == change.id
        )
        while page := connection.execute(edits.where(Edit.id > last).order_by(Edit.id).limit(_PAGE)).all():
            back = _take_back(connection, undoing, change.id, page)
            restored, kept, last = restored + back, kept + len(page) - back, page[-1].id
        connection.execute(sa.update(Change).where(Change.id == change.id).values(undone_by=undoing))
    return Undone(change.id, change.verb, restored, kept)


def _to_undo(connection: Connection, change_id: int | None) -> Any:
    query = sa.select(Change).order_by(Change.id.desc()).limit(1)
    if change_id is None:
        query = query.where(Change.verb.not_in(["undo", "export"]), Change.undone_by.is_(None))
    else:
        query = query.where(Change.id == change_id)
    change = connection.execute(query.with_for_update()).one_or_none()
    if change is None:
        raise UsageError(
            "there is nothing to undo." if change_id is None else f"there is no change {change_id} to undo."
        )
    if change.verb == "undo":
        raise UsageError(f"change {change.id} is itself an undo; `producer undo` takes back what came before it.")
    if change.verb == "export":
        raise UsageError(
            f"change {change.id} is an export of files beside images: `producer export --undo` puts them back."
        )
    if change.undone_by is not None:
        raise UsageError(f"change {change.id} is undone already.")
    return change


def _take_back(connection: Connection, undoing: int, change_id: int, edits: Sequence[Any]) -> int:
    """Put captions back as they were before some edits; return how many nobody had changed since."""
    ids = [edit.caption_id for edit in edits]
    later = sa.select(Edit.caption_id).join(Change, Change.id == Edit.change_id).where(
        Edit.caption_id.in_(ids), Edit.change_id > change_id, Change.verb != "undo", Change.undone_by.is_(None)
    )  # fmt: skip
    changed_since = set(connection.execute(later).scalars())
    columns = sa.select(Caption.id, Caption.text, Caption.original, Caption.source, Caption.withdrawn_at)
    captions = {row.id: row for row in connection.execute(columns.where(Caption.id.in_(ids)))}
    withdrawn, shown_again, restored, done = [], [], [], []
    for edit in edits:
        caption = captions.get(edit.caption_id)
        is_rejected = edit.after is None  # by this change
        if caption is None or (caption.withdrawn_at is not None) != is_rejected or edit.caption_id in changed_since:
            continue
        if caption.text != (edit.before if is_rejected else edit.after):
            continue
        if is_rejected:
            shown_again.append(edit.caption_id)
        elif caption.original is None:  # a row that the change itself wrote
            withdrawn.append(edit.caption_id)
        else:
            original = None if edit.before == caption.original else caption.original
            restored.append({"row": edit.caption_id, "new": edit.before, "model_text": original})
        done.append({"change_id": undoing, "caption_id": edit.caption_id, "file_id": edit.file_id,
                     "before": edit.after, "after": edit.before})  # fmt: skip
    if withdrawn:
        connection.execute(sa.update(Caption).where(Caption.id.in_(withdrawn)).values(withdrawn_at=now()))
    if shown_again:
        connection.execute(sa.update(Caption).where(Caption.id.in_(shown_again)).values(withdrawn_at=None))
    if restored:
        values: dict[str, Any] = {"text": sa.bindparam("new"), "original": sa.bindparam("model_text")}
        connection.execute(sa.update(Caption).where(Caption.id == sa.bindparam("row")).values(values), restored)
    if done:
        connection.execute(sa.insert(Edit), done)
    return len(done)


def history(db: Database, file_id: int) -> list[HistoryEntry]:
    """Return the edits of a file's captions and of those of its content, the newest first."""
    content = sa.select(File.image_id).where(File.id == file_id).scalar_subquery()
    of_content = sa.select(Caption.id).where(Caption.image_id == content)
    query = (
        sa.select(Change.id, Change.created_at, Change.person, Change.verb, Edit.before, Edit.after, Change.undone_by)
        .join(Edit, Edit.change_id == Change.id)
        .where(sa.or_(Edit.file_id == file_id, Edit.caption_id.in_(of_content)))
        .order_by(Edit.id.desc())
    )
    with db.reading() as connection:
        rows = connection.execute(query).all()
    return [
        HistoryEntry(row.id, iso_time(row.created_at), row.person, row.verb, row.before, row.after, bool(row.undone_by))
        for row in rows
    ]
