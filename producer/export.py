"""Captions out: JSON Lines or CSV, to a file that appears whole or to standard output."""

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from captioning.errors import UsageError
from captioning.store.captions import Picture

FIELDS = ("path", "sha256", "caption", "confidence", "model", "width", "height", "status", "error", "captioned_at")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\0")


def export(rows: Iterable[Picture], kind: str, output: str) -> int:
    """Write rows; return how many. Raises UsageError when the file can't be written."""
    with _opened(output) as file:
        return (_jsonl if kind == "jsonl" else _csv)(rows, file)


def _jsonl(rows: Iterable[Picture], file: TextIO) -> int:
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007, counted for the caller
        file.write(json.dumps(row.as_export(), ensure_ascii=False) + "\n")
    return count


def _csv(rows: Iterable[Picture], file: TextIO) -> int:
    writer = csv.writer(file)
    writer.writerow((*FIELDS, "path_b64"))
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007, counted for the caller
        line = row.as_export()
        writer.writerow([harmless(line.get(field)) for field in (*FIELDS, "path_b64")])
    return count


def harmless(value: object) -> object:
    """Keep a spreadsheet from running a cell as a formula (CWE-1236)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@contextmanager
def _opened(output: str) -> Iterator[TextIO]:
    """Open the output; a file is written beside its place and moved there when it is whole."""
    if output == "-":
        yield sys.stdout
        return
    if not output:
        raise UsageError("-o needs a file's name, or - for standard output.")
    path = Path(os.path.realpath(output))
    if path.exists() and not path.is_file():
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                yield file
        except OSError as trouble:
            raise UsageError(f"can't write to {output}: {trouble.strerror}.") from None
        return
    try:
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as trouble:
        raise UsageError(f"can't write to {path}: {trouble.strerror}.") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(unfinished).chmod(0o666 & ~umask)
        Path(unfinished).replace(path)
    except OSError as trouble:
        raise UsageError(f"can't write to {path}: {trouble.strerror}.") from None
    finally:
        Path(unfinished).unlink(missing_ok=True)
