"""What a decode process and its owner tell each other, and the memory that they share.

The owner sizes the memory and passes it by its descriptor; where the system can seal it, neither side can resize it.
It has slots for a few images, each with room for the bytes of a file and for pixels. What does not fit, and everything
where there is no such memory (macOS), follows its message in the pipe.

The owner believes nothing that it receives: a hostile image may control the process. It copies pixels once, out of
memory that the process can change at any time, and checks the rest.
"""

import fcntl
import json
import mmap
import os
import struct
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from captioning.decoding.confinement import Confinement
from captioning.errors import ImageError
from captioning.features import THUMBNAIL_BYTES
from captioning.model import formats
from captioning.model.pixels import Pixels
from captioning.terminal import printable
from captioning.values import ImageInfo, Reason, is_digest_of_pixels

REQUEST = struct.Struct("<QQQ")  # number of the image, bytes of its file in its slot, bytes that follow
ANSWER = struct.Struct("<QQQ")  # number of the image, bytes of JSON that follow, bytes of pixels that follow
STARTED = 0  # the number of the first answer, which is about the process; images are numbered from 1
MAX_HEAD_BYTES = 100_000  # of the JSON of an answer
_MOST_SLOTS, _SLOTS_BYTES = 8, 4_000_000  # images that a process has at once; their pixels, if there are more than two
_FILE_BYTES = 1 << 19  # of a slot; larger files are slow to decode, so that a pipe does not slow them down
_NOEXEC_SEAL = 8  # MFD_NOEXEC_SEAL, which Python does not name before 3.14; Linux has it since 6.3


@dataclass(frozen=True)
class Options:
    """What a decode process does differently if its owner wants it."""

    allow_unconfined: bool = False  # decode the extra formats (captioning.model.formats) also where it is not confined
    keep_aspect: bool = False  # as in `open_image`


@dataclass(frozen=True)
class Started:
    """What a decode process says about itself when it is ready."""

    confinement: Confinement
    formats: tuple[str, ...]  # that it decodes

    def to_message(self) -> dict[str, object]:
        return {"confinement": asdict(self.confinement), "formats": self.formats}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Started":
        return cls(Confinement(**message["confinement"]), tuple(message["formats"]))


@dataclass(frozen=True)
class DecodedImage:
    """An image that the model can read, and facts about its file."""

    pixels: Pixels
    info: ImageInfo
    thumbnail: bytes = b""  # as `pack_thumbnail` makes it; of squares only


@dataclass(frozen=True)
class Layout:
    """The sizes of the shared memory, in bytes."""

    slots: int
    pixel_bytes: int
    file_bytes: int = _FILE_BYTES

    @classmethod
    def of(cls, size: int) -> "Layout":
        """Return the layout for squares of `size` pixels a side."""
        pixel_bytes = 3 * size * size
        return cls(min(_MOST_SLOTS, max(2, _SLOTS_BYTES // pixel_bytes)), pixel_bytes)

    @property
    def total(self) -> int:
        return self.slots * (self.pixel_bytes + self.file_bytes)


class Memory:
    """The shared memory of one decode process, on either side. The slot of an image follows from its number."""

    def __init__(self, layout: Layout, descriptor: int | None) -> None:
        """Map the memory behind a descriptor, which may be closed then. None: there is no memory, so nothing fits."""
        self.layout = layout
        self.is_there = descriptor is not None
        self._view = memoryview(b"" if descriptor is None else mmap.mmap(descriptor, layout.total))

    def put_file(self, number: int, data: bytes) -> bool:
        """Write the bytes of a file; return False if they do not fit."""
        return len(data) <= self.layout.file_bytes and self._put(self._file(number), data)

    def take_file(self, number: int, count: int) -> bytes:
        """Return a copy of the bytes of a file."""
        start = self._file(number)
        return bytes(self._view[start : start + count])

    def put_pixels(self, number: int, pixels: memoryview) -> bool:
        """Write pixels; return False if there is no memory."""
        return self._put(self._file(number) - self.layout.pixel_bytes, pixels)

    def take_pixels(self, number: int, count: int) -> bytes:
        """Return a copy of pixels."""
        start = self._file(number) - self.layout.pixel_bytes
        return bytes(self._view[start : start + count])

    def erase_file(self, number: int, count: int) -> None:
        """Overwrite the bytes of a file, so that a process which has not begun it is done with it at once."""
        self.put_file(number, bytes(count))

    def _put(self, start: int, data: bytes | memoryview) -> bool:
        if self.is_there:
            self._view[start : start + len(data)] = data
        return self.is_there

    def _file(self, number: int) -> int:
        """Return where the file of an image begins; its pixels lie before it."""
        pixel_bytes = self.layout.pixel_bytes
        return number % self.layout.slots * (pixel_bytes + self.layout.file_bytes) + pixel_bytes


def create_memory(size: int) -> int | None:
    """Return the descriptor of new memory of a size that stays; None where the system has none. Raises OSError."""
    if not hasattr(os, "memfd_create"):
        return None
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create("decode", flags | _NOEXEC_SEAL)
    except OSError:
        descriptor = os.memfd_create("decode", flags)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return descriptor


@dataclass(frozen=True)
class Answers:
    """Checks the answers of a process, which a hostile image may control."""

    size: int
    max_side: int
    keep_aspect: bool

    def result(self, head: bytes, number: int, memory: Memory, pixels: bytes) -> DecodedImage | ImageError:
        """Return the result for an image. `pixels` are those that followed the answer.

        Raises ValueError or LookupError when the answer is not valid.
        """
        facts = json_object(head)
        if "reason" in facts:
            return ImageError(Reason(str(facts["reason"])), printable(str(facts["detail"])[:500]))
        width, height, form = int(str(facts["width"])), int(str(facts["height"])), str(facts["format"])
        if not (0 < width <= self.max_side and 0 < height <= self.max_side and form in formats.ALL):
            raise ValueError("not an image within the limits")
        rows, columns = int(str(facts["rows"])), int(str(facts["columns"]))
        if not (0 < rows <= self.size and 0 < columns <= self.size):
            raise ValueError("not pixels of the size that was asked for")
        if not self.keep_aspect and not rows == columns == self.size:
            raise ValueError("not a square")
        if not is_digest_of_pixels(digest := str(facts["digest"])):
            raise ValueError("not a digest")
        thumbnail = bytes.fromhex(str(facts["thumbnail"]))
        if len(thumbnail) != (0 if self.keep_aspect else THUMBNAIL_BYTES):
            raise ValueError("not a thumbnail")
        if memory.is_there:
            pixels = memory.take_pixels(number, rows * columns * 3)
        shaped = np.frombuffer(pixels, np.uint8).reshape(rows, columns, 3)
        return DecodedImage(shaped, ImageInfo(width, height, form, digest), thumbnail)


def json_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for anything else."""
    try:
        found = json.loads(text)
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found
