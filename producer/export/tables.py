"""Tables of captions, one row a file: JSON lines, CSV and Parquet."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TextIO

from captioning.errors import UsageError
from captioning.store.captions import EXPORT_FIELDS, LATER_FIELDS, FileRow
from captioning.terminal import printable
from producer.export.output import Announce, announce_nothing, open_binary, open_text
from producer.render import json_text, yes_or_no

COLUMNS = (*EXPORT_FIELDS, *LATER_FIELDS)
_TRUTHS = ("unlike", "edited", "image_changed")
_FORMULA = re.compile("'*[=+\\-@\t\r\n\0＝＋－＠]")  # some spreadsheets accept the full-width signs too
_GROUP = 10_000  # rows of a row group: 2 MB


def write_jsonl(rows: Iterable[FileRow], output: str, *, announce: Announce = announce_nothing) -> int:
    """Write one JSON object per line; return the number of rows."""
    with open_text(output, announce) as file:
        count = 0
        for count, row in enumerate(rows, start=1):  # noqa: B007, returned after the loop
            file.write(json_text(row.as_export()) + "\n")
    return count


def columns(*, with_text: bool) -> tuple[str, ...]:
    """Return the columns of a table: the fields of an export, `with_text` also the caption with words around it."""
    return (*COLUMNS[:-1], "text", COLUMNS[-1]) if with_text else COLUMNS


def write_csv(
    rows: Iterable[FileRow],
    output: str,
    *,
    excel: bool = False,
    with_text: bool = False,
    announce: Announce = announce_nothing,
) -> int:
    """Write CSV with a header; return the number of rows. `excel` marks the encoding for Excel, which guesses."""
    names = columns(with_text=with_text)
    lines = (row.as_export() | {name: yes_or_no(getattr(row, name)) for name in _TRUTHS} for row in rows)
    with open_text(output, announce) as file:
        if excel:
            file.write("\ufeff")
        return write_csv_table(names, ([line.get(name) for name in names] for line in lines), file)


def write_parquet(
    rows: Iterable[FileRow], output: str, *, with_text: bool = False, announce: Announce = announce_nothing
) -> int:
    """Write a Parquet file in row groups, so that memory does not grow with the table; return the number of rows.

    Raises UsageError without pyarrow.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UsageError("Parquet needs pyarrow: pip install 'captionmill[parquet]'.") from None
    kinds = {"confidence": pyarrow.float64(), "width": pyarrow.int32(), "height": pyarrow.int32()}
    kinds |= dict.fromkeys(_TRUTHS, pyarrow.bool_())
    names = columns(with_text=with_text)
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in names])
    count = 0
    with open_binary(output, announce) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        lines = (dict.fromkeys(names) | row.as_export() for row in rows)
        for group in _groups(lines):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


def _groups(lines: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    remaining = iter(lines)
    while group := list(islice(remaining, _GROUP)):
        yield group


def write_csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]], file: TextIO) -> int:
    """Write a header and rows; return the number of rows. On a terminal, control characters are escaped."""
    escape = _visible if file.isatty() else spreadsheet_safe
    writer = csv.writer(file)
    writer.writerow(columns)
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007, returned after the loop
        writer.writerow([escape(value) for value in row])
    return count


def spreadsheet_safe(value: object) -> object:
    """Prefix text that a spreadsheet would run as a formula with an apostrophe (CWE-1236), and text that looks so."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def from_spreadsheet(value: object) -> object:
    """Remove the apostrophe of `spreadsheet_safe`."""
    is_guarded = isinstance(value, str) and value.startswith("'") and _FORMULA.match(value)
    return value[1:] if is_guarded and isinstance(value, str) else value


def _visible(value: object) -> object:
    return spreadsheet_safe(printable(value) if isinstance(value, str) else value)
