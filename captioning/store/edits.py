"""What people change: corrections, accepted captions, replaced words. Every change has a history and can be undone.

A caption that a person wrote is a row of its own, for a file; rows of models stay beside it. Words that are replaced
in the caption of a model are replaced in its row, which keeps what the model wrote. An undo takes a person's caption
back, or puts replaced words back, but only where nobody has changed the caption since.
"""

import getpass
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import UsageError
from captioning.store.captions import FileRow, iso_time, select_file_rows, to_file_row
from captioning.store.database import Database, now
from captioning.store.schema import Caption, Change, Edit, File
from captioning.values import Source

MAX_LENGTH = 20_000  # characters of a caption
_NOTED = 20  # paths that a change lists
_PAGE = 2000  # rows in one statement


@dataclass(frozen=True)
class NewText:
    """A caption and what its text becomes."""

    caption_id: int
    file_id: int
    before: str
    after: str


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


def person() -> str:
    """Return who runs this process: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def checked_text(text: str) -> str:
    """Return a caption without white space around it. Raises UsageError when it cannot be one."""
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise UsageError(f"the caption has {len(text)} characters, at most {MAX_LENGTH} are possible.")
    if "\0" in text or not _is_unicode(text):
        raise UsageError("the caption has characters that cannot be stored: NUL, or bytes that are not UTF-8.")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def correct(db: Database, file_id: int, text: str) -> tuple[FileRow, FileRow]:
    """Write a person's caption of a file; return the row before and after. An empty text says: the image is decorative.

    Raises UsageError when nobody has read the file yet.
    """
    return _write(db, "correct", {file_id: text})[0]


def accept(db: Database, file_ids: Sequence[int]) -> list[tuple[FileRow, FileRow]]:
    """Make the captions that files show a person's own, for the content that the files have now.

    Returns each row before and after; they are the same where there was nothing to do. Raises UsageError when a file
    has no caption.
    """
    with db.reading() as connection:
        rows = [_row(connection, file_id) for file_id in file_ids]
    for row in rows:
        if row.caption is None:
            why = f"it failed ({row.error})" if row.error else "`producer submit` makes one"
            raise UsageError(f"{row.path} has no caption to accept: {why}.")
    texts = {row.file_id: row.caption or "" for row in rows if row.source != Source.HUMAN or row.image_changed}
    written = {before.file_id: (before, after) for before, after in _write(db, "accept", texts)}
    return [written.get(row.file_id, (row, row)) for row in rows]


def _write(db: Database, verb: str, texts: Mapping[int, str]) -> list[tuple[FileRow, FileRow]]:
    if not texts:
        return []
    with db.writing() as connection:
        before = [_row(connection, file_id) for file_id in texts]
        change_id = begin_change(connection, verb, {"paths": [row.path for row in before[:_NOTED]]})
        content = sa.select(File.id, File.image_id).where(File.id.in_(list(texts)))
        image_ids = {row.id: row.image_id for row in connection.execute(content)}
        for row in before:
            if image_ids[row.file_id] is None:
                if row.error:
                    raise UsageError(f"{row.path} cannot be read as an image ({row.error}), so it can have no caption.")
                raise UsageError(f"{row.path} is not captioned yet: run `producer submit` first, or wait for its job.")
        new = [Written(row.file_id, image_ids[row.file_id], row.caption, texts[row.file_id]) for row in before]
        insert_captions(connection, change_id, new)
        return [(row, _row(connection, row.file_id)) for row in before]


def begin_change(connection: Connection, verb: str, detail: dict[str, Any]) -> int:
    """Record that a command changes captions; return the number of the change."""
    values = {"verb": verb, "detail": detail, "person": person(), "created_at": sa.select(now()).scalar_subquery()}
    return int(connection.execute(sa.insert(Change).values(values).returning(Change.id)).scalar_one())


@dataclass(frozen=True)
class Written:
    """A caption that is not a model's, for the content that a file has now."""

    file_id: int
    image_id: int
    before: str | None  # what the file showed
    text: str
    source: Source = Source.HUMAN


def insert_captions(connection: Connection, change_id: int, captions: Iterable[Written]) -> int:
    """Insert captions of people, and imported ones, with their edits; return how many.

    A person's caption belongs to the file, an imported one to the content.
    """
    at = connection.execute(sa.select(now())).scalar_one()
    count = 0
    for page in _pages(captions):
        values = [
            {"image_id": w.image_id, "file_id": w.file_id if w.source == Source.HUMAN else None, "source": w.source,
             "text": w.text, "created_at": at}
            for w in page
        ]  # fmt: skip
        ids = connection.execute(sa.insert(Caption).returning(Caption.id, sort_by_parameter_order=True), values)
        edits = [
            {
                "change_id": change_id,
                "caption_id": caption_id,
                "file_id": w.file_id,
                "before": w.before,
                "after": w.text,
            }
            for caption_id, w in zip(ids.scalars(), page, strict=True)
        ]
        connection.execute(sa.insert(Edit), edits)
        count += len(page)
    return count


def rewrite(connection: Connection, change_id: int, texts: Iterable[NewText]) -> int:
    """Change the text of captions, which keep their source and model; return how many were still as they were."""
    changed = 0
    for page in _pages(texts):
        current = sa.select(Caption.id, Caption.text).where(Caption.id.in_([new.caption_id for new in page]))
        as_they_are = {row.id: row.text for row in connection.execute(current.with_for_update())}
        now_changed = [new for new in page if as_they_are.get(new.caption_id) == new.before]
        if not now_changed:
            continue
        update = sa.update(Caption).where(Caption.id == sa.bindparam("row")).values(
            original=sa.func.coalesce(Caption.original, Caption.text), text=sa.bindparam("new")
        )  # fmt: skip
        connection.execute(update, [{"row": new.caption_id, "new": new.after} for new in now_changed])
        edits = [
            {"change_id": change_id, "caption_id": new.caption_id, "file_id": new.file_id, "before": new.before,
             "after": new.after}
            for new in now_changed
        ]  # fmt: skip
        connection.execute(sa.insert(Edit), edits)
        changed += len(now_changed)
    return changed


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
    withdrawn, restored, done = [], [], []
    for edit in edits:
        caption = captions.get(edit.caption_id)
        if caption is None or caption.withdrawn_at is not None or edit.caption_id in changed_since:
            continue
        if caption.text != edit.after:
            continue
        if caption.original is None:  # a row that the change itself wrote
            withdrawn.append(edit.caption_id)
        else:
            original = None if edit.before == caption.original else caption.original
            restored.append({"row": edit.caption_id, "new": edit.before, "model_text": original})
        done.append({"change_id": undoing, "caption_id": edit.caption_id, "file_id": edit.file_id,
                     "before": edit.after, "after": edit.before})  # fmt: skip
    if withdrawn:
        connection.execute(sa.update(Caption).where(Caption.id.in_(withdrawn)).values(withdrawn_at=now()))
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


def _row(connection: Connection, file_id: int) -> FileRow:
    row = connection.execute(select_file_rows(None).where(File.id == file_id)).one_or_none()
    if row is None:
        raise UsageError("the file was removed by `producer forget` meanwhile.")
    return to_file_row(row)


def _pages(rows: Iterable[Any]) -> Iterable[list[Any]]:
    page: list[Any] = []
    for row in rows:
        page.append(row)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
