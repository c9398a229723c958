"""Export: one function per format, and the output, which is standard output or a file that appears complete."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from captioning.atomic import replacing
from captioning.errors import UsageError
from captioning.store.captions import EXPORT_FIELDS, LATER_FIELDS, FileRow
from captioning.terminal import printable
from producer.render import json_text, yes_or_no

_FORMULA_STARTS = tuple("=+-@\t\r\n\0＝＋－＠")  # some spreadsheets accept the full-width signs too


def write_jsonl(rows: Iterable[FileRow], file: TextIO) -> int:
    """Write one JSON object per line; return the number of rows."""
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007, returned after the loop
        file.write(json_text(row.as_export()) + "\n")
    return count


def write_csv(rows: Iterable[FileRow], file: TextIO) -> int:
    """Write CSV with a header; return the number of rows."""
    columns = (*EXPORT_FIELDS, *LATER_FIELDS)
    lines = (row.as_export() | {"unlike": yes_or_no(row.unlike)} for row in rows)
    return write_csv_table(columns, ([line.get(name) for name in columns] for line in lines), file)


FORMATS: dict[str, Callable[[Iterable[FileRow], TextIO], int]] = {"jsonl": write_jsonl, "csv": write_csv}
"""Every export format: its name on the command line, and the function that writes it and returns the number of rows.

The first one is the default.
"""


def export(rows: Iterable[FileRow], format_name: str, output: str) -> int:
    """Write rows in a format to the file `output`, `-` for standard output; return the number of rows.

    Raises UsageError when the file cannot be written.
    """
    with _open_output(output) as file:
        return FORMATS[format_name](rows, file)


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
    """Prefix text that a spreadsheet would run as a formula with an apostrophe (CWE-1236)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _visible(value: object) -> object:
    return spreadsheet_safe(printable(value) if isinstance(value, str) else value)


@contextmanager
def _open_output(output: str) -> Iterator[TextIO]:
    """Open the output. A regular file is written beside its place and moved there at the end."""
    if output == "-":
        yield sys.stdout
        return
    if not output:
        raise UsageError("-o needs the name of a file, or - for standard output.")
    path = Path(output)
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, for example; the real path of a pipe does not exist
            with path.open("w", encoding="utf-8", newline="") as file:
                yield file
        else:
            target = Path(os.path.realpath(path))  # the file that a link points to is replaced, not the link
            with replacing(target) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
                yield file
    except OSError as error:
        raise UsageError(f"cannot write to {output}: {error.strerror}.") from None
