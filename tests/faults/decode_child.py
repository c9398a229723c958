"""The decode process of the fault suite: an image that contains a certain word does what a hostile image could do.

For the stub captioner, which reads small images, the returned pixels begin with the file's SHA-256.
"""

import hashlib
import os
import signal
import sys
import time

import numpy as np

from captioning.decoding import child
from captioning.model import pixels
from tests.faults.stub_captioner import SIZE

_open_image = pixels.open_image
_stdout = os.dup(1)


def open_image(
    data: bytes, size: int, limits: pixels.Limits, allowed: tuple[str, ...], *, keep_aspect: bool = False
) -> object:
    if b"CRASH" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"KILLED" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"HANG" in data:
        time.sleep(3600)
    if b"SLOW" in data:
        time.sleep(1.0)
    if b"BLOAT" in data:
        _ = bytearray(100_000_000_000)  # refused at once: no page of it is touched
    if b"TAKEN OVER" in data:  # the image has taken control and sends these bytes, in hex, as the process's answer
        answer = data.partition(b"TAKEN OVER ")[2].partition(b"!")[0].decode()
        os.write(_stdout, bytes.fromhex(answer))
    if b"NOISE" in data:
        print("a library prints to the stream of the answers", file=sys.stdout)
    square, info = _open_image(data, size, limits, allowed, keep_aspect=keep_aspect)
    if size == SIZE:
        square = square.copy()
        square.reshape(-1)[:32] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return square, info


def main() -> None:
    """Run the decode process."""
    child.open_image = open_image  # type: ignore[assignment]
    child.main()
