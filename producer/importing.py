"""Reading captions that people bring: JSON lines, CSV, text files beside images, and XMP sidecars."""

import base64
import binascii
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from captioning.errors import FileLeft, UsageError
from captioning.paths import absolute, is_url, text_of
from captioning.store.captions import FileRow
from captioning.store.database import Database
from captioning.store.edits import checked_text
from captioning.store.files import roots
from captioning.store.imports import Compared, Comparison, ImportedRow, Kind, compare
from captioning.store.sidecars import KnownSidecar, digest_of, known_sidecars
from producer.export.forms import Form, doubled_names, hash_of_path, sidecar_of
from producer.export.place import Tree, open_tree
from producer.export.tables import from_spreadsheet

T = TypeVar("T")
PAGE = 500  # rows that are compared together
_EXAMPLES = 3
_CAPTION_COLUMNS = ("caption", "text")
_PATH_COLUMNS = ("path", "file_name", "file")
_JSON_LINES, _CSV = (".jsonl", ".ndjson"), (".csv", ".tsv")


@dataclass
class Counts:
    """How many rows are of each kind, and the first of those that are not written."""

    number: dict[Kind, int] = field(default_factory=dict)
    examples: dict[Kind, list[str]] = field(default_factory=dict)

    @property
    def wanted(self) -> int:
        """How many rows are new or changed."""
        return self.number.get(Kind.NEW, 0) + self.number.get(Kind.CHANGED, 0)

    def add(self, found: Compared) -> None:
        self.number[found.kind] = self.number.get(found.kind, 0) + 1
        examples = self.examples.setdefault(found.kind, [])
        if len(examples) < _EXAMPLES:
            place = f"{found.row.place}: " if found.row.place else ""
            examples.append(place + (found.row.problem or text_of(found.row.path)))


def count(db: Database, pages: Iterable[Sequence[ImportedRow]]) -> Counts:
    """Compare all rows with what is here."""
    counts, comparison = Counts(), Comparison(roots(db))
    for page in pages:
        for found in compare(db, page, comparison):
            counts.add(found)
    return counts


def pages_of(rows: Iterable[ImportedRow]) -> Iterator[list[ImportedRow]]:
    """Yield rows in pages."""
    return _pages(iter(rows))


def _pages(rows: Iterator[T]) -> Iterator[list[T]]:
    while page := list(islice(rows, PAGE)):
        yield page


def read_table(file: Path, root: Path | None) -> Iterator[ImportedRow]:
    """Yield the rows of a file of JSON lines or CSV. Relative paths are below `root`, or below the file's folder.

    Raises UsageError for a file that cannot be read, with the line.
    """
    ending = file.suffix.lower()
    if ending not in (*_JSON_LINES, *_CSV):
        endings = ", ".join((*_JSON_LINES, *_CSV))
        raise UsageError(f"{file} cannot be imported: the name of such a file ends with {endings}.")
    lines = _json_lines(file) if ending in _JSON_LINES else _csv_lines(file)
    base = os.fsencode(root or file.parent)
    for number, line in lines:
        yield _row(line, base, f"{file.name}:{number}")


def _json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            for number, text in enumerate(opened, start=1):
                if not text.strip():
                    continue
                try:
                    line = json.loads(text)
                except ValueError as error:
                    raise UsageError(f"{file}:{number}: not a line of JSON: {error}.") from None
                if not isinstance(line, dict):
                    raise UsageError(f"{file}:{number}: each line must be a JSON object, like those of an export.")
                yield number, line
    except (OSError, UnicodeError) as error:
        raise _unreadable(file, error) from None


def _csv_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            sample = opened.read(10_000)
            opened.seek(0)
            first = sample.split("\n", 1)[0]
            reader = csv.DictReader(opened, delimiter=max(",;\t", key=first.count))
            names = reader.fieldnames or ()
            if not (set(names) & set(_PATH_COLUMNS) and set(names) & set(_CAPTION_COLUMNS)):
                raise UsageError(
                    f"{file}: its first line must name the columns path (or file_name) and caption (or text),"
                    f" not {', '.join(names) or 'nothing'}."
                )
            for line in reader:
                yield reader.line_num, _cells(line, f"{file}:{reader.line_num}")
    except (OSError, UnicodeError, csv.Error) as error:
        raise _unreadable(file, error) from None


def _cells(line: dict[str | Any, Any], place: str) -> dict[str, Any]:
    if None in line:
        raise UsageError(
            f"{place}: more cells than the header has: write a caption that contains the separator in double quotes."
        )
    return {name: from_spreadsheet(value) for name, value in line.items() if name}


def _unreadable(file: Path, error: Exception) -> UsageError:
    if isinstance(error, UnicodeError):
        return UsageError(f'{file} is not in UTF-8: save it as UTF-8, in a spreadsheet as "CSV UTF-8".')
    why = error.strerror if isinstance(error, OSError) else str(error)
    return UsageError(f"cannot read {file}: {why}.")


def _row(line: dict[str, Any], base: bytes, place: str) -> ImportedRow:
    path = next((line[name] for name in _PATH_COLUMNS if line.get(name)), None)
    column = next((name for name in _CAPTION_COLUMNS if name in line), None)
    if not isinstance(path, str) or column is None:
        raise UsageError(f"{place}: it must have path (or file_name), which is not empty, and caption (or text).")
    exact = _decoded(line.get("path_b64"), place) if line.get("path_b64") else os.fsencode(path)
    caption = line[column]
    if caption is not None and not isinstance(caption, str):
        raise UsageError(f"{place}: the caption must be text, not {caption!r}.")
    try:
        text = None if caption is None else checked_text(caption)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None
    return ImportedRow(
        absolute(exact if exact.startswith(b"/") or is_url(exact) else base + b"/" + exact),
        text,
        line.get("sha256") or None,
        line.get("caption_digest") or None,
        place,
    )


def _decoded(text: Any, place: str) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"{place}: path_b64 is not base64.") from None


def read_sidecars(db: Database, files: Callable[[], Iterator[FileRow]], form: Form) -> Iterator[ImportedRow]:
    """Yield the captions in the sidecars beside images; images without one are left out.

    Of a sidecar that an export wrote, only the words that a person had there count. `files` is called twice.
    """
    doubled = doubled_names(form, files())
    with open_tree(b"/") as tree:
        for page in _pages(row for row in files() if row.sha256 is not None):
            paths = [sidecar_of(form, row.path_bytes) for row in page]
            known = known_sidecars(db, paths)
            for row, path in zip(page, paths, strict=True):
                try:
                    found = _sidecar(tree, row, path, form, known.get(path))
                    if found is not None and hash_of_path(path) in doubled:
                        raise FileLeft("two images have this sidecar")
                except (FileLeft, OSError, UsageError) as error:
                    why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
                    found = ImportedRow(row.path_bytes, None, None, None, text_of(path), Kind.UNREADABLE, why)
                if found is not None:
                    yield found


def _sidecar(tree: Tree, row: FileRow, path: bytes, form: Form, known: KnownSidecar | None) -> ImportedRow | None:
    """Return the words of others in a sidecar; None without one. Raises FileLeft, OSError and UsageError."""
    present = tree.read(path.lstrip(b"/"))
    if present is None:
        return None
    data: bytes | None = present.data
    if known is not None and known.is_ours(digest_of(present.data)):
        data = known.before
    if data is None:
        return ImportedRow(row.path_bytes, None, None, None, text_of(path), Kind.OURS)
    return ImportedRow(row.path_bytes, checked_text(form.words(data)), place=text_of(path))
