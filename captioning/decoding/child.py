"""A decode process: reads the bytes of an image from standard input, writes pixels or a reason to standard output.

Images come from anywhere, and image codecs have vulnerabilities. So they run apart from the model, with little memory,
no torch, and confined: see `captioning.decoding.confinement`. When the process dies, its owner knows which image it was
decoding.
"""

import codecs
import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from captioning.decoding.capability import decoded_formats
from captioning.decoding.confinement import Confinement, available, confine
from captioning.errors import ImageError
from captioning.model import formats
from captioning.model.pixels import Limits, open_image
from captioning.values import Reason

_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16-le", "utf-16-be", "utf-32-le")  # of texts in and instead of images
HEADER = struct.Struct("<QQ")  # bytes of the JSON part, bytes of the binary part


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


def send(stream: BinaryIO, head: dict[str, object], data: bytes = b"") -> None:
    """Write one message: a header, a JSON object, binary data."""
    text = json.dumps(head).encode()
    stream.write(HEADER.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO, max_bytes: int = 2**62) -> tuple[dict[str, object], bytes]:
    """Read one message. Raises EOFError when the other process ended, ValueError for anything but a message."""
    head_size, data_size = HEADER.unpack(_read(stream, HEADER.size))
    if head_size + data_size > max_bytes:
        raise ValueError(f"a message of {head_size + data_size} bytes")
    try:
        head = json.loads(_read(stream, head_size))
    except RecursionError:
        head = None
    if not isinstance(head, dict):
        raise ValueError("a message without a JSON object")
    return head, _read(stream, data_size)


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main(layers: Confinement | None = None) -> None:
    """Decode images until standard input ends, confined by these layers; None: by all that this system has."""
    size, limits, options = int(sys.argv[1]), Limits(**json.loads(sys.argv[2])), Options(**json.loads(sys.argv[3]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the worker; no image may be blamed for them
    _limit(limits.max_pixels)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a library that prints must not write between messages
    started = start(available() if layers is None else layers, allow_unconfined=options.allow_unconfined)
    send(sink, started.to_message())  # a death before this message is not blamed on an image
    while True:
        try:
            _, data = receive(source)
        except EOFError:
            return
        try:
            pixels, info = open_image(data, size, limits, started.formats, keep_aspect=options.keep_aspect)
        except ImageError as error:
            send(sink, {"reason": error.reason, "detail": error.detail})
            continue
        except MemoryError:
            detail = "decoding needs more memory than one image may use; save it smaller"
            send(sink, {"reason": Reason.TOO_LARGE, "detail": detail})
            continue
        rows, columns, _ = pixels.shape
        facts = {"width": info.width, "height": info.height, "format": info.format, "rows": rows, "columns": columns}
        send(sink, facts, pixels.tobytes())


def start(layers: Confinement, *, allow_unconfined: bool = False) -> Started:
    """Confine this process by these layers, after it has imported all that decoding imports."""
    formats.load(decoded_formats(layers, allow_unconfined=allow_unconfined))
    for name in _ENCODINGS:
        codecs.lookup(name)
    confinement = confine(layers)
    return Started(confinement, decoded_formats(confinement, allow_unconfined=allow_unconfined))


def _limit(max_pixels: int) -> None:
    """Limit what a hostile image can use: memory and files. End when the owner ends."""
    memory = 1_500_000_000 + 12 * max_pixels  # bytes: a few copies of the largest image in RGBA
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):  # macOS does not limit address space
            continue
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # when memory runs out, the system kills this process before the model
            Path("/proc/self/oom_score_adj").write_text("1000")
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:
            raise SystemExit(0)


if __name__ == "__main__":
    main()
