"""A process that opens images: bytes in, pixels or a reason out, over its standard input and output.

Files come from anywhere, and decoders have holes. So this runs apart from the model, with little memory, no
new files and no torch; when it dies, its owner knows which image it had in hand.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from captioning.errors import ImageError
from captioning.model.pixels import Limits, open_image
from captioning.values import Reason

HEADER = struct.Struct("<QQ")  # bytes of the JSON part, bytes of the binary part


def send(stream: BinaryIO, said: dict[str, object], data: bytes = b"") -> None:
    """Write one message."""
    head = json.dumps(said).encode()
    stream.write(HEADER.pack(len(head), len(data)) + head)
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO, most: int = 2**62) -> tuple[dict[str, object], bytes]:
    """Read one message. Raises EOFError when the other side has gone, ValueError when it sends no message."""
    header = _exactly(stream, HEADER.size)
    head, data = HEADER.unpack(header)
    if head + data > most:
        raise ValueError(f"a message of {head + data} bytes")
    try:
        said = json.loads(_exactly(stream, head))
    except RecursionError:
        said = None
    if not isinstance(said, dict):
        raise ValueError("a message without a head")
    return said, _exactly(stream, data)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    """Open images until the input ends."""
    size, limits = int(sys.argv[1]), Limits(**json.loads(sys.argv[2]))
    for asked_to_stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked_to_stop, signal.SIG_IGN)  # that is for the worker; no image may be blamed for it
    _confine(limits.max_pixels)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may write between messages
    send(sink, {"ready": True})  # a death before this blames no image
    while True:
        try:
            _, data = receive(source)
        except EOFError:
            return
        try:
            pixels, facts = open_image(data, size, limits)
        except ImageError as wrong:
            send(sink, {"reason": wrong.reason, "detail": wrong.detail})
            continue
        except MemoryError:
            send(sink, {"reason": Reason.TOO_LARGE, "detail": "opening it needs more memory than an image may take"})
            continue
        said = {"width": facts.width, "height": facts.height, "format": facts.format}
        send(sink, said, pixels.tobytes())


def _confine(max_pixels: int) -> None:
    """Bound what a hostile image can take: memory, files; and never outlive the owner."""
    memory = 1_500_000_000 + 12 * max_pixels  # bytes: a few copies of the largest image in RGBA
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):  # macOS doesn't bound address space
            continue
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # when the system runs out of memory, this goes first, not the model
            Path("/proc/self/oom_score_adj").write_text("1000")
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:
            raise SystemExit(0)


if __name__ == "__main__":
    main()
