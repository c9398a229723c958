"""The files beside images that exports have written: what was there before, and what was written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import UsageError
from captioning.paths import hash_of
from captioning.store.database import Database
from captioning.store.edits import begin_change
from captioning.store.schema import Change, Sidecar

_PAGE = 500  # rows with what was there before, which may be megabytes each


@dataclass(frozen=True)
class KnownSidecar:
    """A file of which an export wrote at least a part."""

    path: bytes  # absolute
    how: str  # new, overwrite, append, prepend or merge
    before: bytes | None  # what a person had there; None: no file
    replaced: str | None  # SHA-256 of the file before the last write; None: no file
    written: str  # SHA-256 of the file that is written, or was to be when a process died

    def is_ours(self, digest: str | None) -> bool:
        """Return whether nobody but exports has changed the file, which has this SHA-256 now (None: no file).

        It is as it was written, or as it was before a write that a killed process announced.
        """
        return digest in (self.written, self.replaced)


def known_sidecars(db: Database, paths: Sequence[bytes]) -> dict[bytes, KnownSidecar]:
    """Return what is known of those of some files that exports have written, by path."""
    query = sa.select(Sidecar).where(Sidecar.path_hash.in_([hash_of(path) for path in paths]))
    with db.reading() as connection:
        return {row.path_bytes: _known(row) for row in connection.execute(query)}


def begin_export(db: Database, detail: dict[str, object]) -> int:
    """Record that an export writes files beside images; return the number of the change."""
    with db.writing() as connection:
        return begin_change(connection, "export", detail)


def announce(db: Database, change_id: int, sidecars: Sequence[KnownSidecar]) -> None:
    """Record what will be written, before it is: a process that is killed in between leaves no file unexplained."""
    rows = [
        {"path_bytes": s.path, "path_hash": hash_of(s.path), "change_id": change_id, "how": s.how, "before": s.before,
         "replaced": s.replaced, "written": s.written}
        for s in sidecars
    ]  # fmt: skip
    if rows:
        with db.writing() as connection:
            connection.execute(sa.delete(Sidecar).where(Sidecar.path_hash.in_([row["path_hash"] for row in rows])))
            connection.execute(sa.insert(Sidecar), rows)


def last_export(db: Database) -> int:
    """Return the number of the last export that wrote files and is not undone. Raises UsageError without one."""
    exists = sa.exists().where(Sidecar.change_id == Change.id)
    query = sa.select(sa.func.max(Change.id)).where(Change.verb == "export", Change.undone_by.is_(None), exists)
    with db.reading() as connection:
        found: int | None = connection.execute(query).scalar()
    if found is None:
        raise UsageError("no export has written files that are still remembered: there is nothing to undo.")
    return found


def sidecars_of(db: Database, change_id: int) -> Iterator[list[KnownSidecar]]:
    """Yield pages of the files that an export wrote."""
    last = 0
    while True:
        query = sa.select(Sidecar).where(Sidecar.change_id == change_id, Sidecar.id > last)
        with db.reading() as connection:
            rows = connection.execute(query.order_by(Sidecar.id).limit(_PAGE)).all()
        if not rows:
            return
        last = rows[-1].id
        yield [_known(row) for row in rows]


def forget_sidecars(db: Database, paths: Sequence[bytes]) -> None:
    """Forget files, because they are as they were before any export."""
    with db.writing() as connection:
        connection.execute(sa.delete(Sidecar).where(Sidecar.path_hash.in_([hash_of(path) for path in paths])))


def finish_undo(db: Database, change_id: int) -> None:
    """Record that an export is undone."""
    with db.writing() as connection:
        undoing = begin_change(connection, "undo", {"change": change_id})
        _mark_undone(connection, change_id, undoing)


def _mark_undone(connection: Connection, change_id: int, undoing: int) -> None:
    connection.execute(sa.update(Change).where(Change.id == change_id).values(undone_by=undoing))


def _known(row: sa.Row[Any]) -> KnownSidecar:
    return KnownSidecar(row.path_bytes, row.how, row.before, row.replaced, row.written)
