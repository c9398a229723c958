"""An opener with a fuse: images that carry a word do to it what a hostile image would.

For the stub captioner, whose square is small, the pixels it hands on begin with the file's SHA-256.
"""

import hashlib
import os
import signal
import sys
import time

import numpy as np

from captioning.model import pixels
from tests.faults.stub_captioner import SIZE
from worker import opener

_open = pixels.open_image
_sink = os.dup(1)


def fused(data: bytes, size: int, limits: pixels.Limits) -> object:
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
    if b"TAKEN OVER" in data:  # by an image that says what it likes in the opener's name
        said = data.partition(b"TAKEN OVER ")[2].partition(b"!")[0].decode()
        os.write(_sink, bytes.fromhex(said))
    if b"NOISE" in data:
        print("a library prints where messages go", file=sys.stdout)
    square, facts = _open(data, size, limits)
    if size == SIZE:
        square = square.copy()
        square.reshape(-1)[:32] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return square, facts


if __name__ == "__main__":
    opener.open_image = fused  # type: ignore[assignment]
    opener.main()
