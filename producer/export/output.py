"""Where an export is written: standard output, or a file that appears complete or not at all."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from captioning.atomic import remove_unfinished, replacing
from captioning.errors import UsageError

STANDARD_OUTPUT = "-"


@contextmanager
def open_text(output: str) -> Iterator[TextIO]:
    """Open a file for text, in UTF-8. Raises UsageError when it cannot be written."""
    if output == STANDARD_OUTPUT:
        yield sys.stdout
        return
    with _target(output) as path, path.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def open_binary(output: str) -> Iterator[BinaryIO]:
    """Open a file for bytes. Raises UsageError when it cannot be written, or is a terminal."""
    if output == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise UsageError("this format is not for a terminal: name a file with -o.")
        yield sys.stdout.buffer
        return
    with _target(output) as path, path.open("wb") as file:
        yield file


@contextmanager
def _target(output: str) -> Iterator[Path]:
    """Yield the path to write to. A regular file is written beside its place and moved there at the end."""
    if not output:
        raise UsageError("-o needs the name of a file, or - for standard output.")
    path = Path(output)
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, for example; the real path of a pipe does not exist
            yield path
        else:
            target = Path(os.path.realpath(path))  # the file that a link points to is replaced, not the link
            remove_unfinished(target.parent)  # of an export that was killed
            with replacing(target) as unfinished:
                yield unfinished
    except OSError as error:
        raise UsageError(f"cannot write to {output}: {error.strerror}.") from None
