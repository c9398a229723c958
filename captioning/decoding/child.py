"""A decode process: takes the bytes of images, one after another, and answers each with pixels or a reason.

Images come from anywhere, and image codecs have vulnerabilities. So they run apart from the model, with little memory,
no torch, and confined: see `captioning.decoding.confinement`. Images are answered in their order, each as soon as it is
decoded: when the process dies, the first without an answer is to blame. See `captioning.decoding.messages`.
"""

import codecs
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from captioning.decoding.capability import decoded_formats
from captioning.decoding.confinement import Confinement, available, confine
from captioning.decoding.messages import ANSWER, REQUEST, STARTED, Layout, Memory, Options, Started
from captioning.errors import ImageError
from captioning.features import pack_thumbnail
from captioning.model import formats
from captioning.model.pixels import Limits, open_image
from captioning.values import Reason, digest_of_pixels

_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16-le", "utf-16-be", "utf-32-le")  # of texts in and instead of images


def main(layers: Confinement | None = None) -> None:
    """Decode images until standard input ends, confined by these layers; None: by all that this system has."""
    size, limits, options = int(sys.argv[1]), Limits(**json.loads(sys.argv[2])), Options(**json.loads(sys.argv[3]))
    memory = _map_memory(Layout(**json.loads(sys.argv[4])), int(sys.argv[5]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the worker; no image may be blamed for them
    _limit(limits.max_pixels)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a library that prints must not write between answers
    started = start(available() if layers is None else layers, allow_unconfined=options.allow_unconfined)
    _send(sink, STARTED, started.to_message())  # a death before this answer is not blamed on an image
    while request := source.read(REQUEST.size):
        number, held, follow = REQUEST.unpack(request)
        data = source.read(follow) if follow else memory.take_file(number, held)
        head, pixels = decode(data, size, limits, started.formats, keep_aspect=options.keep_aspect)
        _send(sink, number, head, b"" if memory.put_pixels(number, pixels) else pixels)


def decode(
    data: bytes, size: int, limits: Limits, allowed: tuple[str, ...], *, keep_aspect: bool
) -> tuple[dict[str, object], memoryview]:
    """Decode an image. Return the JSON of its answer, and its pixels, which are empty if it cannot be decoded."""
    try:
        pixels, info = open_image(data, size, limits, allowed, keep_aspect=keep_aspect)
    except ImageError as error:
        return {"reason": error.reason, "detail": error.detail}, memoryview(b"")
    except MemoryError:
        detail = "decoding needs more memory than one image may use; save it smaller"
        return {"reason": Reason.TOO_LARGE, "detail": detail}, memoryview(b"")
    rows, columns, _ = pixels.shape
    raw = np.ascontiguousarray(pixels).reshape(-1).data
    facts = {"width": info.width, "height": info.height, "format": info.format, "rows": rows, "columns": columns}
    thumbnail = b"" if keep_aspect else pack_thumbnail(pixels)
    return facts | {"digest": digest_of_pixels(raw), "thumbnail": thumbnail.hex()}, raw


def _map_memory(layout: Layout, descriptor: int) -> Memory:
    """Map the memory that the owner has passed; -1: there is none."""
    if descriptor < 0:
        return Memory(layout, None)
    memory = Memory(layout, descriptor)
    os.close(descriptor)
    return memory


def _send(sink: BinaryIO, number: int, head: dict[str, object], pixels: bytes | memoryview = b"") -> None:
    text = json.dumps(head).encode()
    sink.write(ANSWER.pack(number, len(text), len(pixels)) + text)
    sink.write(pixels)
    sink.flush()


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
