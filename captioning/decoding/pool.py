"""A pool of decode processes: distributes images, replaces processes that die, and blames the image that killed one."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import BinaryIO, TypeVar, cast

import numpy as np

from captioning.decoding.capability import limits_of
from captioning.decoding.child import Options, Started, receive, send
from captioning.decoding.confinement import hide_memory
from captioning.environment import child_environment_without_secrets
from captioning.errors import DecodePoolUnavailable, ImageError
from captioning.model import formats
from captioning.model.pixels import Limits, Pixels
from captioning.settings import Settings
from captioning.start import child_command
from captioning.terminal import printable
from captioning.values import ImageInfo, Reason, digest_of_pixels

MODULE = "captioning.decoding.child"
MAX_ATTEMPTS = 2  # the image is to blame when this many processes died while they decoded it
MAX_ATTEMPTS_WHEN_KILLED = 4  # if the last death was a SIGKILL from outside: the kernel sends it when memory runs out
START_SECONDS = 60.0  # that a process may take to start
_MAX_HEAD_BYTES = 100_000  # of the JSON that a process returns for an image
_DEFAULTS = Options()
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class DecodedImage:
    """An image that the model can read, and facts about its file."""

    pixels: Pixels
    info: ImageInfo


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_pool(
    settings: Settings, size: int, count: int = 0, *, module: str = MODULE, keep_aspect: bool = False
) -> "DecodePool":
    """Return a pool with the limits of the settings. `count` 0: as many as the settings say, else one a core."""
    options = Options(settings.allow_unconfined_formats, keep_aspect)
    count = count or settings.decode_processes or available_cores()
    return DecodePool(count, size, limits_of(settings), settings.decode_timeout_seconds, module, options)


class _Watchdog(threading.Thread):
    """Kills processes that take too long.

    It counts its own ticks instead of reading a clock: while this process is stopped, no time is counted.
    """

    TICK_SECONDS = 0.25

    def __init__(self) -> None:
        super().__init__(name="decode-watchdog", daemon=True)
        self._seconds_left: dict[subprocess.Popen[bytes], float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def begin(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Kill the process unless `end` is called within this time."""
        with self._lock:
            self._seconds_left[process] = seconds

    def end(self, process: subprocess.Popen[bytes]) -> bool:
        """Stop watching the process; return whether it was killed."""
        with self._lock:
            return self._seconds_left.pop(process) <= 0

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(self.TICK_SECONDS):
            with self._lock:
                for process in self._seconds_left:
                    self._seconds_left[process] -= self.TICK_SECONDS
                    if self._seconds_left[process] <= 0:
                        process.kill()


class DecodePool:
    """Decode processes, each with a thread of this process that talks to it."""

    def __init__(
        self,
        count: int,
        size: int,
        limits: Limits,
        timeout_seconds: float,
        module: str = MODULE,
        options: Options = _DEFAULTS,
    ) -> None:
        """Prepare a pool of `count` processes, which start when they are needed. `size` is the side of the squares."""
        self._size = size
        self._keep_aspect = options.keep_aspect
        self._timeout_seconds = timeout_seconds
        self._max_side = limits.max_side
        self._command = [*child_command(module), str(size), json.dumps(asdict(limits)), json.dumps(asdict(options))]
        self._watchdog = _Watchdog()
        self._watchdog.start()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._of_thread = threading.local()
        self._processes: set[subprocess.Popen[bytes]] = set()
        hide_memory()  # of a process that talks to hostile images and may know passwords

    def started(self) -> Started:
        """Return what a decode process says about itself; start one if need be. Raises DecodePoolUnavailable."""

        def started() -> Started:
            self._process()
            return cast("Started", self._of_thread.started)

        return self._threads.submit(started).result()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply a function, which may call `decode`, to items on the pool's threads. Results come in order."""
        return self._threads.map(function, items)

    def decode(self, data: bytes, attempts: int, on_death: Callable[[], None]) -> DecodedImage:
        """Decode one image; called by a function given to `map`.

        `attempts` counts the processes that died earlier while they decoded this image. `on_death` is called for each
        one that dies now. Raises ImageError and DecodePoolUnavailable.
        """
        while True:
            process = self._process()
            self._watchdog.begin(process, self._timeout_seconds)
            try:
                send(cast("BinaryIO", process.stdin), {}, data)
                answer = self._answer(cast("BinaryIO", process.stdout))
            except (EOFError, OSError, ValueError, LookupError) as failure:  # it died, or the image took control of it
                timed_out = self._watchdog.end(process)
                self._discard(process)
                attempts += 1
                on_death()
                died = isinstance(failure, (EOFError, OSError))
                killed = died and process.returncode == -signal.SIGKILL and not timed_out
                if attempts >= (MAX_ATTEMPTS_WHEN_KILLED if killed else MAX_ATTEMPTS):
                    raise self._image_error(attempts, timed_out=timed_out) from None
                continue
            if self._watchdog.end(process):  # killed just after it answered: the next image is not to blame
                self._discard(process)
            if isinstance(answer, ImageError):
                raise answer
            return answer

    def close(self) -> None:
        """End all processes and threads."""
        self._watchdog.stop()
        for process in list(self._processes):
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in list(self._processes):
            self._discard(process)

    def _answer(self, stream: BinaryIO) -> DecodedImage | ImageError:
        """Read and check the answer of a process, which a hostile image may control.

        Raises EOFError when the process died, ValueError or LookupError when the answer is not valid.
        """
        head, pixels = receive(stream, _MAX_HEAD_BYTES + self._size * self._size * 3)
        if "reason" in head:
            return ImageError(Reason(str(head["reason"])), printable(str(head["detail"])[:500]))
        width, height, form = int(str(head["width"])), int(str(head["height"])), str(head["format"])
        if not (0 < width <= self._max_side and 0 < height <= self._max_side and form in formats.ALL):
            raise ValueError("not an image within the limits")
        rows, columns = int(str(head["rows"])), int(str(head["columns"]))
        if not (0 < rows <= self._size and 0 < columns <= self._size):
            raise ValueError("not pixels of the size that was asked for")
        if not self._keep_aspect and not rows == columns == self._size:
            raise ValueError("not a square")
        shaped = np.frombuffer(pixels, np.uint8).reshape(rows, columns, 3)
        return DecodedImage(shaped, ImageInfo(width, height, form, digest_of_pixels(pixels)))

    def _image_error(self, attempts: int, *, timed_out: bool) -> ImageError:
        if timed_out:
            limit = f"{self._timeout_seconds:g} s (CAPTIONING_DECODE_TIMEOUT_SECONDS)"
            return ImageError(Reason.TIMEOUT, f"decoding takes more than {limit}")
        return ImageError(Reason.CRASHED, f"decoding killed the process {attempts} times")

    def _process(self) -> subprocess.Popen[bytes]:
        """Return this thread's process, a new one if the last died. Raises DecodePoolUnavailable."""
        process: subprocess.Popen[bytes] | None = getattr(self._of_thread, "process", None)
        if process is None or process.poll() is not None:
            process = self._of_thread.process = self._start()
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a process and wait until it is ready. Raises DecodePoolUnavailable."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # codecs print about bad files; a log file could not be written anyway
                env=child_environment_without_secrets(_ONE_THREAD),
            )
        except OSError as error:  # no file handles, no processes, no memory
            raise DecodePoolUnavailable(f"cannot start a process that decodes images: {error.strerror}") from None
        self._processes.add(process)
        self._watchdog.begin(process, START_SECONDS)
        try:
            ready, _ = receive(cast("BinaryIO", process.stdout))
            self._of_thread.started = Started.from_message(ready)
        except (EOFError, ValueError):
            self._discard(process)
            raise DecodePoolUnavailable("the process that decodes images does not start") from None
        finally:
            self._watchdog.end(process)
        return process

    def _discard(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process, wait for its end and close its pipes."""
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass
        self._processes.discard(process)
