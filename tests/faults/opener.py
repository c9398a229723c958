"""An opener with a fuse: pictures that carry a word do to it what a hostile picture would."""

import os
import signal
import sys
import time

from captioning.model import pixels
from worker import opener

_open = pixels.open_picture


def fused(data: bytes, size: int, limits: pixels.Limits) -> object:
    if b"CRASH" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in data:
        time.sleep(3600)
    if b"BLOAT" in data:
        _ = bytearray(100_000_000_000)  # refused at once: no page of it is touched
    if b"NOISE" in data:
        print("a library prints where messages go", file=sys.stdout)
    return _open(data, size, limits)


if __name__ == "__main__":
    opener.open_picture = fused  # type: ignore[assignment]
    opener.main()
