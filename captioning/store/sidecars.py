"""The files that exports have written. Of those beside images: what was there before, too."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import UsageError
from captioning.paths import hash_of, is_below, text_of
from captioning.store.database import Database
from captioning.store.edits import begin_change
from captioning.store.files import at_paths, roots
from captioning.store.schema import Change, File, Sidecar

_REMEMBERED = 1000  # exports to files
_PAGE = 500  # rows with what was there before, which may be megabytes each


@dataclass(frozen=True)
class KnownSidecar:
    """A file of which an export wrote at least a part."""

    path: bytes  # absolute
    how: str  # new, overwrite, append, prepend or merge
    before: bytes | None  # what a person had there; None: no file
    replaced: str | None  # SHA-256 of the file before the last write; None: no file
    written: str  # SHA-256 of the file that is written, or was to be when a process died
    image: bytes | None = None  # absolute path of its image; None: an older version wrote it
    mtime_ns: int | None = None  # of `before`
    change: int = 0  # the export that last wrote it

    def is_ours(self, digest: str | None) -> bool:
        """Return whether an export wrote the file, which has this SHA-256 now (None: no file), and nobody since.

        It is as it was written, or as an export had written it before a write that a killed process announced. A file
        that is as a person had it is the person's, whoever put it back.
        """
        return digest is not None and digest in (self.written, self.replaced) and digest != digest_of(self.before)


@overload
def digest_of(data: bytes) -> str: ...
@overload
def digest_of(data: bytes | None) -> str | None: ...
def digest_of(data: bytes | None) -> str | None:
    """Return the SHA-256 of a file's bytes; None without a file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def known_sidecars(db: Database, paths: Sequence[bytes]) -> dict[bytes, KnownSidecar]:
    """Return what is known of those of some files that exports have written, by path."""
    query = sa.select(Sidecar).where(Sidecar.path_hash.in_([hash_of(path) for path in paths]))
    with db.reading() as connection:
        return {row.path_bytes: _known(row) for row in connection.execute(query)}


def registered(db: Database, paths: Sequence[bytes]) -> set[bytes]:
    """Return which of some absolute paths are files that were submitted."""
    keys = {}
    for root in roots(db):
        for path in paths:
            if is_below(path, root.path):
                keys[(root.id, hash_of(root.relative(path)))] = path
    query = sa.select(File.root_id, File.path_hash).where(at_paths(keys))
    with db.reading() as connection:
        found = connection.execute(query).all() if keys else []
    return {keys[row.root_id, row.path_hash] for row in found if (row.root_id, row.path_hash) in keys}


def begin_export(db: Database, detail: dict[str, object]) -> int:
    """Record that an export writes files beside images; return the number of the change."""
    with db.writing() as connection:
        return begin_change(connection, "export", detail)


def announce(db: Database, sidecars: Sequence[KnownSidecar], seen: Mapping[bytes, KnownSidecar]) -> set[bytes]:
    """Record what will be written, before it is: a process that is killed in between leaves no file unexplained.

    Returns the paths of those that are still as they were `seen`; another export has announced the others meanwhile.
    """
    hashes = [hash_of(s.path) for s in sidecars]
    if not hashes:
        return set()
    with db.writing() as connection:
        of_paths = sa.select(Sidecar).where(Sidecar.path_hash.in_(hashes)).with_for_update()
        now = {row.path_bytes: _known(row) for row in connection.execute(of_paths)}
        ours = [s for s in sidecars if now.get(s.path) == seen.get(s.path)]
        _replace(connection, ours)
    return {s.path for s in ours}


def withdraw(db: Database, announced: KnownSidecar, before: KnownSidecar | None) -> None:
    """Take back what was announced for a file that could not be written, unless another export has announced it."""
    with db.writing() as connection:
        of_path = sa.select(Sidecar).where(Sidecar.path_hash == hash_of(announced.path)).with_for_update()
        row = connection.execute(of_path).one_or_none()
        if row is None or _known(row) != announced:
            return
        connection.execute(sa.delete(Sidecar).where(Sidecar.id == row.id))
        if before is not None:
            _replace(connection, [before])


def _replace(connection: Connection, sidecars: Sequence[KnownSidecar]) -> None:
    rows = [
        {"path_bytes": s.path, "path_hash": hash_of(s.path), "change_id": s.change, "how": s.how, "before": s.before,
         "replaced": s.replaced, "written": s.written, "image_bytes": s.image, "mtime_ns": s.mtime_ns}
        for s in sidecars
    ]  # fmt: skip
    if rows:
        connection.execute(sa.delete(Sidecar).where(Sidecar.path_hash.in_([row["path_hash"] for row in rows])))
        connection.execute(sa.insert(Sidecar), rows)


@dataclass(frozen=True)
class LastExport:
    """An export that can be undone."""

    change: int
    created_at: float
    detail: dict[str, Any]  # its format, where to, and which images


def last_export(db: Database) -> LastExport:
    """Return the last export that wrote files, as far as they are still remembered.

    Those that were undone come last: a file that could not be put back is tried again. Raises UsageError without one.
    """
    query = sa.select(Change).where(sa.exists().where(Sidecar.change_id == Change.id))
    query = query.order_by(Change.undone_by.is_not(None), Change.id.desc()).limit(1)
    with db.reading() as connection:
        found = connection.execute(query).one_or_none()
    if found is None:
        raise UsageError("there is no export to undo: none has written sidecars that are as it left them.")
    return LastExport(found.id, found.created_at, found.detail)


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
    return KnownSidecar(
        row.path_bytes, row.how, row.before, row.replaced, row.written, row.image_bytes, row.mtime_ns,
        row.change_id,
    )  # fmt: skip


def remember_file(db: Database, path: bytes, data_digest: str) -> None:
    """Record that an export wrote a whole file, with this SHA-256."""
    with db.writing() as connection:
        begin_change(connection, "export", {"file": text_of(path), "sha256": data_digest})


def digests_of_file(db: Database, path: bytes) -> set[str]:
    """Return the SHA-256 of what exports have written to a file, as far as they are remembered."""
    query = sa.select(Change.detail).where(Change.verb == "export").order_by(Change.id.desc()).limit(_REMEMBERED)
    with db.reading() as connection:
        details = connection.execute(query).scalars().all()
    return {str(detail.get("sha256")) for detail in details if detail.get("file") == text_of(path)}
