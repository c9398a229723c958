"""What people change: corrections, accepted and rejected captions, replaced words.

A caption that a person wrote is a row of its own, for a file; rows of models stay beside it. Words that are replaced
in the caption of a model are replaced in its row, which keeps what the model wrote. A rejected caption is not shown any
more. Every change has a history and can be undone, see `captioning.store.history`.
"""

import getpass
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import CaptionChanged, UsageError
from captioning.store.captions import FileRow, select_file_rows, to_file_row
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


@dataclass(frozen=True)
class Edited:
    """A file before and after an edit; both are the same where there was nothing to do."""

    before: FileRow
    after: FileRow
    change: int | None = None  # number of the change, for an undo; None where there was nothing to do


def correct(db: Database, file_id: int, text: str, version: str | None = None) -> Edited:
    """Write a person's caption of a file. An empty text says: the image is decorative.

    `version` is that of the row which the person saw. Raises CaptionChanged when the file shows another caption by now,
    and UsageError when nobody has read the file yet.
    """
    with db.writing() as connection:
        before = _row_to_edit(connection, file_id, version)
        return _write(connection, "correct", [before], {file_id: text})[0]


def accept(db: Database, file_ids: Sequence[int], version: str | None = None) -> list[Edited]:
    """Make the captions that files show a person's own, for the content that the files have now.

    `version` is as in `correct`, for a single file. Raises CaptionChanged, and UsageError when a file has no caption.
    """
    with db.writing() as connection:
        rows = [_row_to_edit(connection, file_id, version) for file_id in file_ids]
        for row in rows:
            if row.caption is None:
                raise UsageError(f"{row.path} has no caption to accept: {_why_without_caption(row)}.")
        new = [row for row in rows if row.source != Source.HUMAN or row.image_changed]
        texts = {row.file_id: row.caption or "" for row in new}
        written = {edited.after.file_id: edited for edited in _write(connection, "accept", new, texts)}
        return [written.get(row.file_id, Edited(row, row)) for row in rows]


def reject(db: Database, file_ids: Sequence[int], version: str | None = None) -> list[Edited]:
    """Take back the captions that files show, because they are wrong. Each file then shows its next best, if any.

    The caption of a model is that of all copies of the image, and the model does not make it again. `version` is as in
    `correct`, for a single file. Raises CaptionChanged, and UsageError when a file has no caption.
    """
    with db.writing() as connection:
        rows = [_row_to_edit(connection, file_id, version) for file_id in file_ids]
        for row in rows:
            if row.caption_id is None:
                raise UsageError(f"{row.path} has no caption to reject: {_why_without_caption(row)}.")
        change_id = begin_change(connection, "reject", {"paths": [row.path for row in rows[:_NOTED]]})
        withdrawn = sorted({row.caption_id for row in rows if row.caption_id is not None})
        connection.execute(sa.update(Caption).where(Caption.id.in_(withdrawn)).values(withdrawn_at=now()))
        edits = {row.caption_id: row for row in reversed(rows)}.values()  # one for each caption: copies share theirs
        values = [
            {"change_id": change_id, "caption_id": row.caption_id, "file_id": row.file_id, "before": row.caption,
             "after": None}
            for row in edits
        ]  # fmt: skip
        connection.execute(sa.insert(Edit), values)
        return [Edited(row, _row(connection, row.file_id), change_id) for row in rows]


def _why_without_caption(row: FileRow) -> str:
    if row.status == "rejected":
        return "what the model wrote was rejected; `producer correct` writes one"
    return f"it failed ({row.error})" if row.error else "`producer submit` makes one"


def _row_to_edit(connection: Connection, file_id: int, version: str | None) -> FileRow:
    """Lock a file and return its row. Raises CaptionChanged when it is not the version that the person saw."""
    connection.execute(sa.select(File.id).where(File.id == file_id).with_for_update())
    row = _row(connection, file_id)
    if version is not None and row.version != version:
        raise CaptionChanged(f"the caption of {row.path} was changed meanwhile: look at it again.")
    return row


def _write(connection: Connection, verb: str, rows: Sequence[FileRow], texts: Mapping[int, str]) -> list[Edited]:
    """Write a person's captions, by file id, for files as they are now."""
    if not rows:
        return []
    change_id = begin_change(connection, verb, {"paths": [row.path for row in rows[:_NOTED]]})
    content = sa.select(File.id, File.image_id).where(File.id.in_(list(texts)))
    image_ids = {row.id: row.image_id for row in connection.execute(content)}
    for row in rows:
        if image_ids[row.file_id] is None:
            if row.error:
                raise UsageError(f"{row.path} cannot be read as an image ({row.error}), so it can have no caption.")
            raise UsageError(f"{row.path} is not captioned yet: run `producer submit` first, or wait for its job.")
    new = [Written(row.file_id, image_ids[row.file_id], row.caption, texts[row.file_id]) for row in rows]
    insert_captions(connection, change_id, new)
    return [Edited(row, _row(connection, row.file_id), change_id) for row in rows]


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
