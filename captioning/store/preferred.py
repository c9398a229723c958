"""Which caption a file shows: one rule for all commands. The view `caption_export` has the same.

A caption that a person wrote for a file follows the file, whatever its content becomes. Otherwise the caption is that
of the content: the newest that a person wrote, else the newest imported one, else that of the wanted model, else the
newest one by any model. What an undo took back, and what a person rejected, is not shown.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from captioning.store.schema import Caption, Edit, File, Image, Model
from captioning.values import Source


def own_caption_id(file: Any = File) -> sa.ScalarSelect[int]:
    """Return, as SQL, the id of the newest caption that a person wrote for a file; null without one."""
    own = aliased(Caption)
    return (
        sa.select(own.id)
        .where(own.file_id == file.id, own.withdrawn_at.is_(None))
        .order_by(own.created_at.desc(), own.id.desc())
        .limit(1)
        .correlate(file)
        .scalar_subquery()
    )


def caption_id_of_content(image_id: Any, model: str | None) -> sa.ScalarSelect[int]:
    """Return, as SQL, the id of the caption of an image's content, by `model` (None: the default model) if it can be.

    Captions of people and imported ones go before those of models.
    """
    c, m = aliased(Caption), aliased(Model)
    by_model = m.name == model if model is not None else m.is_default
    rank = sa.case((c.source == Source.HUMAN, 0), (c.source == Source.IMPORTED, 1), (by_model, 2), else_=3)
    return (
        sa.select(c.id)
        .outerjoin(m, m.id == c.model_id)
        .where(c.image_id == image_id, c.withdrawn_at.is_(None))
        .order_by(rank, c.created_at.desc(), c.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def shown_caption_id(model: str | None, file: Any = File) -> sa.ColumnElement[int]:
    """Return, as SQL, the id of the caption that a file shows."""
    return sa.func.coalesce(own_caption_id(file), caption_id_of_content(file.image_id, model))


def fitting_caption_id(model: str | None) -> sa.ColumnElement[int]:
    """Return the same, but without a caption that a person wrote for content that the file has no more."""
    own = aliased(Caption)
    fits = sa.select(own.id).where(own.id == own_caption_id(), ~is_outdated(own)).correlate(File).scalar_subquery()
    return sa.func.coalesce(fits, caption_id_of_content(File.image_id, model))


def is_outdated(caption: Any = Caption) -> sa.ColumnElement[bool]:
    """Return the condition for a caption to be of a file that has other pixels now, or that nobody has read since.

    An edit of metadata leaves the pixels as they were. All of these subqueries name what they are correlated with: by
    itself SQLAlchemy looks only at the nearest query around them.
    """
    before, now = aliased(Image), aliased(Image)
    of_caption = sa.select(before.pixels).where(before.id == caption.image_id).correlate(caption).scalar_subquery()
    of_file = sa.select(now.pixels).where(now.id == File.image_id).correlate(File).scalar_subquery()
    other = sa.and_(caption.image_id != File.image_id, sa.func.coalesce(of_caption != of_file, sa.true()))
    return sa.func.coalesce(sa.and_(caption.file_id == File.id, sa.or_(File.image_id.is_(None), other)), sa.false())


def is_rejected() -> sa.ColumnElement[bool]:
    """Return the condition for a file without a caption to have one of a model that a person rejected."""
    c = aliased(Caption)
    withdrawn = c.withdrawn_at.is_not(None)
    rejected = sa.exists().where(c.image_id == File.image_id, c.source == Source.MACHINE, withdrawn).correlate(File)
    return sa.and_(Caption.id.is_(None), rejected)


def keep_captions_of_people(connection: Connection, file_ids: Sequence[int]) -> None:
    """Make captions of people follow files that change, where they were written for a copy of the content.

    Each such file gets rows of its own, in the same changes, so that an undo takes back the same on all copies.
    """
    query = (
        sa.select(File.id.label("file_id"), Caption.id, Caption.image_id, Caption.text, Caption.created_at)
        .join(Caption, Caption.image_id == File.image_id)
        .where(Caption.source == Source.HUMAN, Caption.withdrawn_at.is_(None))
        .where(File.id.in_(file_ids), own_caption_id().is_(None))
        .order_by(File.id, Caption.created_at, Caption.id)
    )
    for row in connection.execute(query).all() if file_ids else ():
        values = {"image_id": row.image_id, "file_id": row.file_id, "source": Source.HUMAN, "text": row.text,
                  "created_at": row.created_at}  # fmt: skip
        kept = connection.execute(sa.insert(Caption).values(values).returning(Caption.id)).scalar_one()
        edit = sa.select(Edit.change_id, sa.literal(kept), sa.literal(row.file_id), Edit.before, Edit.after)
        edit = edit.where(Edit.caption_id == row.id).order_by(Edit.id).limit(1)
        connection.execute(sa.insert(Edit).from_select(["change_id", "caption_id", "file_id", "before", "after"], edit))
