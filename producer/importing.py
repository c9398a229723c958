"""Reading captions that people bring: JSON lines, CSV, text files beside images, and XMP sidecars."""

import base64
import binascii
import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from captioning.errors import FileLeft, UsageError
from captioning.paths import absolute, text_of
from captioning.store.captions import FileRow
from captioning.store.database import Database
from captioning.store.edits import checked_text
from captioning.store.files import roots
from captioning.store.imports import Compared, ImportedRow, Kind, compare
from producer.export import xmp
from producer.export.place import open_tree
from producer.export.sidecars import Form

PAGE = 500  # rows that are compared together
_EXAMPLES = 3
_CAPTION_COLUMNS = ("caption", "text")
_PATH_COLUMNS = ("path", "file_name", "file")


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
            examples.append(place + text_of(found.row.path))


def count(db: Database, pages: Iterable[Sequence[ImportedRow]]) -> Counts:
    """Compare all rows with what is here."""
    counts, known_roots = Counts(), roots(db)
    for page in pages:
        for found in compare(db, page, known_roots):
            counts.add(found)
    return counts


def pages_of(rows: Iterable[ImportedRow]) -> Iterator[list[ImportedRow]]:
    """Yield rows in pages."""
    remaining = iter(rows)
    while page := list(islice(remaining, PAGE)):
        yield page


def read_table(file: Path, root: Path | None) -> Iterator[ImportedRow]:
    """Yield the rows of a file of JSON lines or CSV. Relative paths are below `root`, or below the file's folder.

    Raises UsageError for a file that cannot be read, with the line.
    """
    lines = _json_lines(file) if file.suffix.lower() in (".jsonl", ".ndjson") else _csv_lines(file)
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
            reader = csv.DictReader(opened, delimiter=";" if first.count(";") > first.count(",") else ",")
            for line in reader:
                yield reader.line_num, {name: _from_spreadsheet(value) for name, value in line.items() if name}
    except (OSError, UnicodeError, csv.Error) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UsageError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return UsageError(f"cannot read {file}: {why}.")


def _from_spreadsheet(value: Any) -> Any:
    """Remove the apostrophe that an export puts before what a spreadsheet would run as a formula."""
    is_guarded = isinstance(value, str) and value.startswith("'") and value[1:2] in tuple("=+-@\t\r\n\0＝＋－＠")
    return value[1:] if is_guarded else value


def _row(line: dict[str, Any], base: bytes, place: str) -> ImportedRow:
    path = next((line[name] for name in _PATH_COLUMNS if line.get(name)), None)
    column = next((name for name in _CAPTION_COLUMNS if name in line), None)
    if not isinstance(path, str) or column is None:
        raise UsageError(f"{place}: needs a column path (or file_name) and a column caption (or text).")
    exact = _decoded(line.get("path_b64"), place) if line.get("path_b64") else os.fsencode(path)
    caption = line[column]
    if caption is not None and not isinstance(caption, str):
        raise UsageError(f"{place}: the caption must be text, not {caption!r}.")
    try:
        text = None if caption is None else checked_text(caption)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None
    return ImportedRow(
        absolute(exact if exact.startswith(b"/") else base + b"/" + exact),
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


def read_sidecars(files: Iterable[FileRow], form: Form, *, is_xmp: bool) -> Iterator[ImportedRow]:
    """Yield the captions in the sidecars beside images; images without one are left out.

    A sidecar that cannot be read safely, or is no XMP, is left out too.
    """
    with open_tree(b"/") as tree:
        for row in files:
            folder, _, name = row.path_bytes.rpartition(b"/")
            path = folder + b"/" + form.name_of(name)
            try:
                present = tree.read(path.lstrip(b"/"))
                if present is None:
                    continue
                text = _xmp_text(present.data) if is_xmp else present.data.decode("utf-8-sig")
                yield ImportedRow(row.path_bytes, checked_text(text), place=text_of(path))
            except (FileLeft, OSError, UnicodeError, UsageError):
                continue


def _xmp_text(data: bytes) -> str:
    packet = xmp.parse(data)
    return packet.text(xmp.DESCRIPTION) or packet.text(xmp.ALT_TEXT) or ""
