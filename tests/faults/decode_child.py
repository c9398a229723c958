"""The decode process of the fault suite: an image that contains a certain word does what a hostile image could do.

For the stub captioner, which reads small images, the returned pixels begin with the file's SHA-256.
"""

import hashlib
import itertools
import os
import signal
import struct
import sys
import time
from typing import BinaryIO

import numpy as np

from captioning.decoding import child, messages
from captioning.model import pixels
from tests.faults.stub_captioner import SIZE

_open_image = pixels.open_image
_send, _map_memory = child._send, child._map_memory
_stdout = os.dup(1)
_numbers = itertools.count(1)  # of images
_memories: list[messages.Memory] = []


def open_image(
    data: bytes, size: int, limits: pixels.Limits, allowed: tuple[str, ...], *, keep_aspect: bool = False
) -> object:
    number = next(_numbers)
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
        os.write(_stdout, bytes.fromhex(answer).replace(b"\xff" * 8, struct.pack("<Q", number), 1))
    if b"AGAIN" in data:
        child._send = send_twice  # type: ignore[assignment]
    if b"SCRIBBLE" in data:
        view = _memories[0]._view
        view[:] = bytes(len(view))
    if b"NOISE" in data:
        print("a library prints to the stream of the answers", file=sys.stdout)
    square, info = _open_image(data, size, limits, allowed, keep_aspect=keep_aspect)
    if size == SIZE:
        square = square.copy()
        square.reshape(-1)[:32] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return square, info


def send_twice(sink: BinaryIO, number: int, head: dict[str, object], pixels: bytes | memoryview = b"") -> None:
    _send(sink, number, head, pixels)
    _send(sink, number, head, pixels)


def map_memory(layout: messages.Layout, descriptor: int) -> messages.Memory:
    _memories.append(_map_memory(layout, descriptor))
    return _memories[0]


def main() -> None:
    """Run the decode process."""
    child.open_image = open_image  # type: ignore[assignment]
    child._map_memory = map_memory
    child.main()
