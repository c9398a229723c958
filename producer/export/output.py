"""Where an export is written: standard output, or a file that appears complete or not at all.

A file that is there is replaced only if an export wrote it and nobody has changed it since, or if a person says so.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from captioning.atomic import remove_unfinished, replacing
from captioning.errors import StoreUnavailable, UsageError
from captioning.store.database import Database
from captioning.store.sidecars import digests_of_file, registered, remember_file

STANDARD_OUTPUT = "-"


def refuse_to_replace(db: Database, output: str, *, overwrite: bool) -> None:
    """Raise UsageError when a file is there that a person may own. An image is never replaced."""
    path = Path(os.path.realpath(output))
    if output == STANDARD_OUTPUT or not path.is_file():
        return
    if registered(db, [os.fsencode(path)]):
        raise UsageError(f"{output} is an image that was submitted: name another file.")
    try:
        is_ours = not path.stat().st_size or _digest(path) in digests_of_file(db, os.fsencode(path))
    except OSError as error:
        raise UsageError(f"cannot read {output}, which would be replaced: {error.strerror}.") from None
    if not is_ours and not overwrite:
        raise UsageError(
            f"{output} exists and somebody else wrote or changed it: name another file, or add --on-existing overwrite."
        )


def remember(db: Database, output: str, finished: Path) -> None:
    """Remember what an export is about to put at `output`, so that the next one may replace it."""
    # a database that can only be read is no reason to fail: the next export asks for --on-existing overwrite
    with contextlib.suppress(StoreUnavailable):
        remember_file(db, os.fsencode(os.path.realpath(output)), _digest(finished))


Announce = Callable[[Path], None]
"""Called with the finished file, before it is moved to its place."""


def announce_nothing(finished: Path) -> None:
    """Do nothing."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_text(output: str, announce: Announce = announce_nothing) -> Iterator[TextIO]:
    """Open a file for text, in UTF-8. Raises UsageError when it cannot be written."""
    if output == STANDARD_OUTPUT:
        yield sys.stdout
        return
    with _target(output, announce) as path, path.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def open_binary(output: str, announce: Announce = announce_nothing) -> Iterator[BinaryIO]:
    """Open a file for bytes. Raises UsageError when it cannot be written, or is a terminal."""
    if output == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise UsageError("this format is not for a terminal: name a file with -o.")
        yield sys.stdout.buffer
        return
    with _target(output, announce) as path, path.open("wb") as file:
        yield file


@contextmanager
def _target(output: str, announce: Announce) -> Iterator[Path]:
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
                announce(unfinished)
    except OSError as error:
        raise UsageError(f"cannot write to {output}: {error.strerror}.") from None
