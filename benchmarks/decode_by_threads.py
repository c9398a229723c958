"""Decoding as it was before `captioning.decoding.driver`: a thread for each process, pixels through its pipe.

Kept to compare with: `python -m benchmarks.decode`. Run as a module of a process, it is the process: it answers each
file with pixels; with `instant` it does not decode.
"""

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, cast

from captioning.decoding.child import decode
from captioning.model.formats import BASIC
from captioning.model.pixels import Limits
from captioning.start import child_command
from captioning.values import digest_of_pixels

_HEADER = struct.Struct("<QQ")  # bytes of JSON, bytes of pixels or of the file


def _send(stream: IO[bytes], head: object, data: bytes | memoryview) -> None:
    text = json.dumps(head).encode()
    stream.write(_HEADER.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    head, data = _HEADER.unpack(stream.read(_HEADER.size))
    json.loads(stream.read(head))
    return stream.read(data)


def decode_all(files: list[bytes], count: int, size: int, kind: str) -> Iterator[bytes]:
    """Decode files in `count` processes; yield pixels in order."""
    local, processes = threading.local(), []

    def one(data: bytes) -> bytes:
        if not hasattr(local, "process"):
            command = [*child_command("benchmarks.decode_by_threads"), kind, str(size)]
            local.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(local.process)
        _send(local.process.stdin, {}, data)
        pixels = _receive(local.process.stdout)
        digest_of_pixels(pixels)
        return pixels

    with ThreadPoolExecutor(count) as threads:
        yield from threads.map(one, files)
    for process in processes:
        cast("IO[bytes]", process.stdin).close()
        process.wait()


def main() -> None:
    """Run the process."""
    kind, size = sys.argv[1], int(sys.argv[2])
    square = memoryview(bytes(3 * size * size))
    while header := sys.stdin.buffer.read(_HEADER.size):
        head, length = _HEADER.unpack(header)
        sys.stdin.buffer.read(head)
        data = sys.stdin.buffer.read(length)
        pixels = square if kind == "instant" else decode(data, size, Limits(), BASIC, keep_aspect=False)[1]
        _send(sys.stdout.buffer, {"width": size}, pixels)
