"""Many values as one text that a database reads: JSON, and arrays of PostgreSQL."""

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

json_bytes = msgspec.json.Encoder().encode
"""Return a value as JSON in UTF-8, in a tenth of the time that `json` takes. Bytes are in base64, dataclasses become
objects, numbers that are not finite null."""


def json_text(value: Any) -> str:
    """Return a value as JSON, as `json_bytes` does."""
    return json_bytes(value).decode()


def array_text(values: Collection[Any]) -> str:
    """Return values of one type as PostgreSQL writes an array. The driver would take ten times as long for each."""
    first = next(iter(values), None)
    elements: Iterable[str]
    if isinstance(first, bytes):
        elements = ('"\\\\x' + value.hex() + '"' for value in values)
    elif isinstance(first, str):
        elements = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    else:
        elements = map(str, values)
    return "{" + ",".join(elements) + "}"
