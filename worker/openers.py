"""The owner of opener processes: hands out pictures, replaces what dies, blames the right picture."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

import numpy as np

from captioning.errors import ImageError, ServiceTrouble
from captioning.model.pixels import Pixels
from captioning.values import PictureFacts, Reason
from worker.opener import receive, send

DEATHS = 2  # of openers with the same picture in hand, before the picture is to blame
T = TypeVar("T")
R = TypeVar("R")


class OpenersUnavailable(ServiceTrouble):
    """No opener can be started: out of memory or processes, say. No picture is to blame."""


@dataclass(frozen=True)
class Opened:
    """A picture ready for the model."""

    pixels: Pixels
    facts: PictureFacts


class Openers:
    """Some opener processes, each with a thread that talks to it."""

    def __init__(self, count: int, size: int, max_pixels: int, seconds: float, module: str = "worker.opener") -> None:
        self._size = size
        self._seconds = seconds
        self._arguments = [sys.executable, "-P", "-m", module, str(size), str(max_pixels)]
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="opener")
        self._mine = threading.local()
        self._processes: set[subprocess.Popen[bytes]] = set()

    def map(self, act: Callable[[T], R], things: Iterable[T]) -> Iterator[R]:
        """Apply `act`, which may call `open`, on the openers' threads; results come in order."""
        return self._threads.map(act, things)

    def open(self, data: bytes, deaths: int, on_death: Callable[[], None]) -> Opened:
        """Open one picture, called from `map`. `deaths` it caused earlier count; each new one is told.

        Raises ImageError and OpenersUnavailable.
        """
        while True:
            process = self._process()
            hung = threading.Event()
            timer = threading.Timer(self._seconds, lambda h=hung, p=process: (h.set(), p.kill()))
            timer.start()
            try:
                send(cast("BinaryIO", process.stdin), {}, data)
                said, pixels = receive(cast("BinaryIO", process.stdout))
            except (EOFError, OSError):
                self._bury(process)
                deaths += 1
                on_death()
                if deaths >= DEATHS:
                    raise self._verdict(timed_out=hung.is_set()) from None
                continue
            finally:
                timer.cancel()
            if "reason" in said:
                raise ImageError(Reason(str(said["reason"])), str(said["detail"]))
            facts = PictureFacts(int(str(said["width"])), int(str(said["height"])), str(said["format"]))
            square = np.frombuffer(pixels, np.uint8).reshape(self._size, self._size, 3)
            return Opened(square, facts)

    def close(self) -> None:
        """End all processes and threads."""
        for process in list(self._processes):
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in list(self._processes):
            self._bury(process)

    def _verdict(self, *, timed_out: bool) -> ImageError:
        if timed_out:
            return ImageError(
                Reason.TIMEOUT, f"opening it takes more than {self._seconds:g} s (CAPTIONING_PICTURE_SECONDS)"
            )
        return ImageError(Reason.CRASHED, f"opening it killed the process {DEATHS} times")

    def _process(self) -> subprocess.Popen[bytes]:
        """Return this thread's process, a new one if the last died. Raises OpenersUnavailable."""
        process: subprocess.Popen[bytes] | None = getattr(self._mine, "process", None)
        if process is None or process.poll() is not None:
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what decoders mutter about bad files; it may not write to a log anyway
                env=environment,
            )
            self._processes.add(process)
            try:
                receive(cast("BinaryIO", process.stdout))
            except EOFError:
                self._bury(process)
                raise OpenersUnavailable("the process that opens pictures doesn't start") from None
            self._mine.process = process
        return process

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass
        self._processes.discard(process)
