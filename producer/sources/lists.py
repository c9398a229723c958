"""Read lists of paths: one per line or separated by NUL, in the encodings in which programs and systems write them."""

import codecs
import contextlib
import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from captioning.errors import UsageError

_MAX_DEVICE_BYTES = 1_000_000  # read from a list that is a device: /dev/zero never ends
_MARKS = (  # UTF-32 first: its mark begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),  # PowerShell writes it
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UTF16_ASCII = re.compile(rb"(?:[^\0]\0){4}")  # paths of one character, separated by NUL, are nobody's list


def read_list(name: str, *, null: bool) -> Iterator[bytes]:
    """Yield paths, one per line or separated by NUL, from a file, or from standard input for `-`.

    Raises UsageError when the list cannot be read or is separated in the other way.
    """
    data = _without_mark(_read(name))
    if null:
        if b"\0" not in data and data.count(b"\n") > 1:
            raise UsageError(f"the list {name} contains no NUL: read a list of lines without -0.")
        return _split(data, b"\0")
    data = _utf16_as_utf8(data) if b"\0" in data else data
    if data.count(b"\0") > data.count(b"\n"):  # fewer make some lines useless, and those are counted as such
        advice = "read a list separated by NUL with -0, and name an image without --from-file"
        raise UsageError(f"the list {name} contains NUL, which no path does; {advice}.")
    return _split(data, b"\n" if b"\n" in data else b"\r")  # old programs for the Mac write CR alone


def _read(name: str) -> bytes:
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            is_device = _is_device(file) and not file.isatty()
            data = file.read(_MAX_DEVICE_BYTES if is_device else -1)
    except OSError as error:
        raise UsageError(f"cannot read the list {name}: {error.strerror}.") from None
    if is_device and len(data) == _MAX_DEVICE_BYTES:
        raise UsageError(f"the list {name} is a device that never ends.")
    return data


def _is_device(file: BinaryIO) -> bool:
    try:
        return stat.S_ISCHR(os.fstat(file.fileno()).st_mode)
    except io.UnsupportedOperation:  # a standard input without a descriptor
        return False


def _without_mark(data: bytes) -> bytes:
    """Return a list as UTF-8, or in the bytes of the file system where it has no byte order mark."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = data[len(mark) :]
            return text if encoding == "utf-8" else text.decode(encoding, "replace").encode()
    return data


def _utf16_as_utf8(data: bytes) -> bytes:
    """Return a list in UTF-16 without a byte order mark as UTF-8, any other as it is."""
    if _UTF16_ASCII.search(data) is None:
        return data
    order = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        text = data.decode(order)
    except UnicodeDecodeError:
        return data
    return data if "\0" in text else text.encode()


def _split(data: bytes, separator: bytes) -> Iterator[bytes]:
    """Yield the paths one by one: a list of a million lines is not kept twice."""
    start = 0
    while start < len(data):
        end = data.find(separator, start)
        end = end if end >= 0 else len(data)
        path = data[start:end] if separator == b"\0" else data[start:end].rstrip(b"\r")
        if path.strip():
            yield path
        start = end + 1
