"""Many values as one text that a database reads: JSON, and arrays of PostgreSQL."""

from collections.abc import Iterable
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode  # a tenth of the time that `json` takes, for each caption


def json_text(value: Any) -> str:
    """Return a value as JSON. Bytes are in base64, numbers that are not finite are null."""
    return _encode(value).decode()


def array_text(values: Iterable[int | str | bytes]) -> str:
    """Return values as PostgreSQL writes an array. The driver would take ten times as long for each."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: int | str | bytes) -> str:
    if isinstance(value, bytes):
        return '"\\\\x' + value.hex() + '"'
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
