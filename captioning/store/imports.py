"""Captions that people bring: which file each is for, how it compares with what is there, and writing them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.engine import Connection

from captioning.paths import hash_of, is_below
from captioning.store.captions import FileRow, caption_digest, select_file_rows, to_file_row
from captioning.store.database import Database
from captioning.store.edits import Written, begin_change, insert_captions
from captioning.store.files import RootPath, at_paths, roots
from captioning.store.schema import File, Image
from captioning.values import Source


class Kind(StrEnum):
    """How an imported row compares with what is here."""

    NEW = "new"  # the image has no caption, or only one by a model
    CHANGED = "changed"  # in the file after an export, and not in the database since
    SAME = "same"
    NEWER_HERE = "newer here"  # changed in the database after the export, not in the file
    CONFLICT = "conflict"  # changed in both, or the image has other content now
    TWICE = "twice"  # another caption of the same image came before it
    UNKNOWN = "unknown"  # no registered image has this path, or this content
    EMPTY = "empty"  # no caption in the row
    OURS = "ours"  # a sidecar as an export wrote it
    UNREADABLE = "unreadable"  # a sidecar that cannot be read, or is of two images


@dataclass(frozen=True)
class ImportedRow:
    """A caption from a file, and what the file says of the image."""

    path: bytes  # absolute
    caption: str | None
    sha256: str | None = None
    exported: str | None = None  # `caption_digest` of what an export wrote
    place: str = ""  # in the file, for messages
    kind: Kind | None = None  # of a sidecar that has no caption to compare
    problem: str = ""  # why it is unreadable


@dataclass(frozen=True)
class Compared:
    """A row with the file that it is for."""

    row: ImportedRow
    kind: Kind
    file: FileRow | None = None
    image_id: int | None = None


class Comparison:
    """Compares rows with what is here. Remembers their images, so that none gets two captions."""

    def __init__(self, known_roots: Sequence[RootPath]) -> None:
        self.known_roots = known_roots
        self._seen: dict[int, bytes] = {}  # digest of the caption that an image gets, by file

    def of_page(self, connection: Connection, rows: Sequence[ImportedRow]) -> list[Compared]:
        """Return how some rows compare with what is here."""
        by_path = _files_by_path(connection, [row.path for row in rows], self.known_roots)
        strangers = [row.sha256 for row in rows if row.path not in by_path and row.sha256]
        by_content = _files_by_content(connection, strangers)
        found = []
        for row in rows:
            file, image_id = by_path.get(row.path) or by_content.get(row.sha256 or "") or (None, None)
            kind = row.kind or _kind(row, file, image_id)
            if file is not None and row.caption and kind is not row.kind:
                digest = hash_of(row.caption.encode())
                if self._seen.setdefault(file.file_id, digest) != digest:
                    kind = Kind.TWICE
            found.append(Compared(row, kind, file, image_id))
        return found


def compare(db: Database, rows: Sequence[ImportedRow], comparison: Comparison) -> list[Compared]:
    """Return how some rows compare with what is here."""
    with db.reading() as connection:
        return comparison.of_page(connection, rows)


def _kind(row: ImportedRow, file: FileRow | None, image_id: int | None) -> Kind:  # noqa: PLR0911, one for each kind
    if not row.caption:
        return Kind.EMPTY
    if file is None or image_id is None:
        return Kind.UNKNOWN
    if file.caption == row.caption:
        return Kind.SAME
    if row.sha256 not in (None, file.sha256):
        return Kind.CONFLICT
    if row.exported is None:
        return Kind.CONFLICT if file.caption is not None and file.source != Source.MACHINE else Kind.NEW
    if row.exported == caption_digest(file.caption):
        return Kind.CHANGED
    return Kind.NEWER_HERE if row.exported == caption_digest(row.caption) else Kind.CONFLICT


def _files_by_path(
    connection: Connection, paths: Sequence[bytes], known_roots: Sequence[RootPath]
) -> dict[bytes, tuple[FileRow, int | None]]:
    """Return the files at absolute paths, with their content."""
    keys = {}
    for path in paths:
        for root in known_roots:
            if is_below(path, root.path):
                keys[(root.id, hash_of(root.relative(path)))] = path
    query = select_file_rows(None).add_columns(File.root_id, File.path_hash, File.image_id)
    rows = connection.execute(query.where(at_paths(keys))).all()
    found = {keys.get((row.root_id, row.path_hash)): (to_file_row(row), row.image_id) for row in rows}
    return {path: file for path, file in found.items() if path is not None}


def _files_by_content(connection: Connection, digests: Sequence[str]) -> dict[str, tuple[FileRow, int | None]]:
    """Return a file with each content, that with the lowest number."""
    if not digests:
        return {}
    query = select_file_rows(None).add_columns(File.image_id).where(Image.sha256.in_(digests)).order_by(File.id.desc())
    return {row.sha256: (to_file_row(row), row.image_id) for row in connection.execute(query)}


def write(
    db: Database,
    pages: Iterable[Sequence[ImportedRow]],
    detail: dict[str, object],
    *,
    as_human: bool = False,
    take_theirs: bool = False,
) -> int:
    """Write the captions that are new or changed, in one transaction; return how many.

    Conflicts are written only with `take_theirs`. A caption that takes the place of a person's counts as a person's
    too, because otherwise it would not be shown.
    """
    wanted = {Kind.NEW, Kind.CHANGED} | ({Kind.CONFLICT} if take_theirs else set())
    comparison = Comparison(roots(db))
    with db.writing() as connection:
        change_id = begin_change(connection, "import", detail)

        def chosen() -> Iterator[Written]:
            for page in pages:
                for found in comparison.of_page(connection, page):
                    file = found.file
                    if found.kind in wanted and file is not None and found.image_id is not None:
                        source = Source.HUMAN if as_human or file.source == Source.HUMAN else Source.IMPORTED
                        yield Written(file.file_id, found.image_id, file.caption, found.row.caption or "", source)

        return insert_captions(connection, change_id, chosen())
