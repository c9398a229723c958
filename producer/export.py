"""Captions out: JSON Lines or CSV, to a file that appears whole or to standard output."""

import csv
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from captioning.errors import UsageError
from captioning.store.captions import FileRow
from captioning.terminal import printable
from producer.render import json_text

FIELDS = ("path", "sha256", "caption", "confidence", "model", "width", "height", "status", "error", "captioned_at")
_FORMULA = tuple("=+-@\t\r\n\0＝＋－＠")  # the wide ones count as well, in some languages


def export(rows: Iterable[FileRow], kind: str, output: str) -> int:
    """Write rows; return how many. Raises UsageError when the file can't be written."""
    with _opened(output) as file:
        return (_jsonl if kind == "jsonl" else _csv)(rows, file)


def _jsonl(rows: Iterable[FileRow], file: TextIO) -> int:
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007, counted for the caller
        file.write(json_text(row.as_export()) + "\n")
    return count


def _csv(rows: Iterable[FileRow], file: TextIO) -> int:
    lines = (row.as_export() for row in rows)
    columns = (*FIELDS, "path_b64")
    return write_csv(columns, ([line.get(name) for name in columns] for line in lines), file)


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[object]], file: TextIO) -> int:
    """Write rows below their columns; return how many. Cells are exact in a file, made visible on a terminal."""
    shown = _visible if file.isatty() else harmless
    writer = csv.writer(file)
    writer.writerow(columns)
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007, counted for the caller
        writer.writerow([shown(cell) for cell in row])
    return count


def harmless(value: object) -> object:
    """Keep a spreadsheet from running a cell as a formula (CWE-1236)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _visible(value: object) -> object:
    return harmless(printable(value) if isinstance(value, str) else value)


@contextmanager
def _opened(output: str) -> Iterator[TextIO]:
    """Open the output; a file is written beside its place and moved there when it is whole."""
    if output == "-":
        yield sys.stdout
        return
    if not output:
        raise UsageError("-o needs a file's name, or - for standard output.")
    path = Path(os.path.realpath(output))
    given = Path(output)  # /dev/stdout, say: the real path of a pipe leads nowhere
    if given.exists() and not given.is_file():
        try:
            with given.open("w", encoding="utf-8", newline="") as file:
                yield file
        except OSError as error:
            raise UsageError(f"can't write to {output}: {error.strerror}.") from None
        return
    try:
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".captionmill-")
    except OSError as error:
        raise UsageError(f"can't write to {path}: {error.strerror}.") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).chmod(_mode(path))
        Path(unfinished).replace(path)
    except OSError as error:
        raise UsageError(f"can't write to {path}: {error.strerror}.") from None
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """Return the permissions that a file has, or that a new one gets."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
