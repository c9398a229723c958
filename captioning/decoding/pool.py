"""The owner of opener processes: hands out images, replaces what dies, blames the right image."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import BinaryIO, TypeVar, cast

import numpy as np

from captioning.decoding.child import receive, send
from captioning.errors import ImageError, ServiceUnavailable
from captioning.model.pixels import FORMATS, Limits, Pixels
from captioning.terminal import printable
from captioning.values import ImageInfo, Reason

MODULE = "captioning.decoding.child"
DEATHS = 2  # of decode_pool with the same image in hand, before the image is to blame
KILLS = 4  # of which the last was by a SIGKILL that wasn't ours: no decoder sends that, but a system without memory
START_SECONDS = 60.0  # that a process may take until it is ready
_HEAD_MOST = 100_000  # bytes, of what an opener says about an image
_SECRETS = ("CAPTIONING_", "PG")  # what settings begin with that may hold passwords; decode_pool need none of them
T = TypeVar("T")
R = TypeVar("R")


class DecodePoolUnavailable(ServiceUnavailable):
    """No opener can be started: out of memory or processes, say. No image is to blame."""


@dataclass(frozen=True)
class DecodedImage:
    """An image ready for the model."""

    pixels: Pixels
    facts: ImageInfo


class _Watch(threading.Thread):
    """Kills decode_pool that take too long over an image.

    It counts its own ticks instead of reading a clock: while this process is stopped, time doesn't count either.
    """

    TICK_SECONDS = 0.25

    def __init__(self) -> None:
        super().__init__(name="opener-watch", daemon=True)
        self._left: dict[subprocess.Popen[bytes], float] = {}  # seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def begin(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Give a process so long for what it has in hand."""
        with self._lock:
            self._left[process] = seconds

    def end(self, process: subprocess.Popen[bytes]) -> bool:
        """Watch a process no longer; return whether it was killed."""
        with self._lock:
            return self._left.pop(process) <= 0

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(self.TICK_SECONDS):
            with self._lock:
                for process in self._left:
                    self._left[process] -= self.TICK_SECONDS
                    if self._left[process] <= 0:
                        process.kill()


class DecodePool:
    """Some opener processes, each with a thread that talks to it."""

    def __init__(self, count: int, size: int, limits: Limits, seconds: float, module: str = MODULE) -> None:
        self._size = size
        self._seconds = seconds
        self._max_side = limits.max_side
        self._arguments = [sys.executable, "-P", "-m", module, str(size), json.dumps(asdict(limits))]
        self._watch = _Watch()
        self._watch.start()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="opener")
        self._mine = threading.local()
        self._processes: set[subprocess.Popen[bytes]] = set()

    def map(self, act: Callable[[T], R], things: Iterable[T]) -> Iterator[R]:
        """Apply `act`, which may call `open`, on the decode_pool' threads; results come in order."""
        return self._threads.map(act, things)

    def open(self, data: bytes, deaths: int, on_death: Callable[[], None]) -> DecodedImage:
        """Open one image, called from `map`. `deaths` it caused earlier count; each new one is told.

        Raises ImageError and DecodePoolUnavailable.
        """
        while True:
            process = self._process()
            self._watch.begin(process, self._seconds)
            try:
                send(cast("BinaryIO", process.stdin), {}, data)
                answer = self._answer(cast("BinaryIO", process.stdout))
            except (EOFError, OSError, ValueError, LookupError) as lost:  # it has died, or was taken over
                hung = self._watch.end(process)
                self._bury(process)
                deaths += 1
                on_death()
                killed = isinstance(lost, (EOFError, OSError)) and process.returncode == -signal.SIGKILL and not hung
                if deaths >= (KILLS if killed else DEATHS):
                    raise self._verdict(deaths, timed_out=hung) from None
                continue
            if self._watch.end(process):  # it answered at the last moment: its death is not the next image's
                self._bury(process)
            if isinstance(answer, ImageError):
                raise answer
            return answer

    def close(self) -> None:
        """End all processes and threads."""
        self._watch.stop()
        for process in list(self._processes):
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in list(self._processes):
            self._bury(process)

    def _answer(self, stream: BinaryIO) -> DecodedImage | ImageError:
        """Read what an opener says, and trust nothing of it. Raises EOFError; at nonsense ValueError or LookupError."""
        said, pixels = receive(stream, _HEAD_MOST + self._size * self._size * 3)
        if "reason" in said:
            return ImageError(Reason(str(said["reason"])), printable(str(said["detail"])[:500]))
        width, height, kind = int(str(said["width"])), int(str(said["height"])), str(said["format"])
        if not (0 < width <= self._max_side and 0 < height <= self._max_side and kind in FORMATS):
            raise ValueError("no image that we admit")
        square = np.frombuffer(pixels, np.uint8).reshape(self._size, self._size, 3)
        return DecodedImage(square, ImageInfo(width, height, kind))

    def _verdict(self, deaths: int, *, timed_out: bool) -> ImageError:
        if timed_out:
            return ImageError(
                Reason.TIMEOUT, f"opening it takes more than {self._seconds:g} s (CAPTIONING_IMAGE_SECONDS)"
            )
        return ImageError(Reason.CRASHED, f"opening it killed the process {deaths} times")

    def _process(self) -> subprocess.Popen[bytes]:
        """Return this thread's process, a new one if the last died. Raises DecodePoolUnavailable."""
        process: subprocess.Popen[bytes] | None = getattr(self._mine, "process", None)
        if process is None or process.poll() is not None:
            environment = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
            environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            try:
                process = subprocess.Popen(
                    self._arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # what decoders mutter about bad files; it can't write to a log anyway
                    env=environment,
                )
            except OSError as error:  # no file handles, no processes, no memory
                raise DecodePoolUnavailable(f"no process to open images can be started: {error.strerror}") from None
            self._processes.add(process)
            self._watch.begin(process, START_SECONDS)
            try:
                receive(cast("BinaryIO", process.stdout))
            except (EOFError, ValueError):
                self._bury(process)
                raise DecodePoolUnavailable("the process that opens images doesn't start") from None
            finally:
                self._watch.end(process)
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
