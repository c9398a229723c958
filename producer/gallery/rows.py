"""Files as the page reads them: a short row for lists, and the details for the large view."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from captioning.paths import text_of
from captioning.store.details import DetailedCaption, DetailedFile
from captioning.values import Source

FIELDS = ("id", "root", "name", "status", "caption", "confidence", "model", "source", "unlike", "edited", "changed",
          "width", "height", "thumbnail", "others", "jobs", "error")  # fmt: skip
"""The values of a row, in order; `page/rows.js` gives them these names.

`root` and `model` are indexes into lists of names. `confidence` is in percent. `thumbnail` is the name of its file, or
empty. `others` are captions by other models, each [model, caption, confidence].
"""


@dataclass
class Names:
    """Names that many rows have; rows contain their index."""

    values: list[str] = field(default_factory=list)
    _indexes: dict[str, int] = field(default_factory=dict)

    def index(self, name: str) -> int:
        """Return the index of a name, which is added if it is new."""
        if name not in self._indexes:
            self._indexes[name] = len(self.values)
            self.values.append(name)
        return self._indexes[name]


@dataclass
class Encoder:
    """Turns files into rows and details. It collects the names of roots and models, and the numbers of jobs."""

    roots: Names = field(default_factory=Names)
    models: Names = field(default_factory=Names)
    jobs: set[int] = field(default_factory=set)

    def row(self, item: DetailedFile, thumbnail: str) -> list[Any]:
        """Return the values of FIELDS for a file."""
        file = item.file
        self.jobs.update(item.jobs)
        return [
            file.file_id,
            self.roots.index(text_of(file.root_bytes)),
            text_of(file.path_bytes[len(file.root_bytes.rstrip(b"/")) + 1 :]),
            file.status,
            file.caption,
            percent(file.confidence),
            None if file.model is None else self.models.index(file.model),
            file.source,
            int(bool(file.unlike)),
            int(file.edited),
            int(file.image_changed),
            file.width,
            file.height,
            thumbnail,
            [[self.models.index(c.details.model or ""), c.details.text, percent(c.details.confidence)]
             for c in other_models(item)],
            list(item.jobs),
            file.error,
        ]  # fmt: skip


def other_models(item: DetailedFile) -> list[DetailedCaption]:
    """Return the newest caption of each model that is not the caption which the file shows."""
    found: dict[str | None, DetailedCaption] = {}
    for caption in item.captions:
        if caption.details.source == Source.MACHINE:
            found.setdefault(caption.details.model, caption)
    return [c for c in found.values() if c is not item.captions[0]]


def details(item: DetailedFile) -> dict[str, Any]:
    """Return what the large view shows besides the row."""
    file = item.file
    return {
        "sha256": file.sha256,
        "format": file.format,
        "bytes": file.size,
        "captions": [_caption(c) for c in item.captions],
    }


def _caption(caption: DetailedCaption) -> dict[str, Any]:
    found = caption.details
    return {
        "text": found.text,
        "source": found.source,
        "model": found.model,
        "confidence": percent(found.confidence),
        "words": [[word["word"], percent(word["confidence"])] for word in found.words],
        "alternatives": [other["text"] for other in found.alternatives],
        "original": found.original,
        "at": found.created_at,
        "attention": _attention(caption.attention, len(found.text.split())),
    }


def _attention(weights: bytes | None, words: int) -> dict[str, Any] | None:
    """Return the side of the grid, and the weights of each word in base64; None where they do not fit the words."""
    if not weights or not words or len(weights) % words:
        return None
    cells = len(weights) // words
    side = math.isqrt(cells)
    if side * side != cells:
        return None
    return {"side": side, "words": [base64.b64encode(part).decode() for part in _parts(weights, cells)]}


def _parts(data: bytes, size: int) -> Sequence[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def percent(share: float | None) -> int | None:
    return None if share is None else round(100 * share)
