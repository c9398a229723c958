"""A pool of decode processes: decodes images for several callers at once, and blames the image that killed a process.

One thread drives all processes (`driver`), which get images several at a time (`process`) and take turns between
callers by the time that their images need (`turns`). Pixels come through shared memory (`messages`).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TypeVar

from captioning.decoding.capability import limits_of
from captioning.decoding.confinement import hide_memory
from captioning.decoding.driver import Driver
from captioning.decoding.messages import Answers, DecodedImage, Layout, Options, Started
from captioning.decoding.process import DecodeProcess
from captioning.decoding.turns import Caller, Death, DecodeRequest, Task
from captioning.environment import available_cores
from captioning.errors import ImageError
from captioning.model.pixels import Limits
from captioning.settings import Settings
from captioning.start import child_command
from captioning.values import Reason

__all__ = ["DecodePool", "DecodeRequest", "DecodedImage", "open_pool"]

MODULE = "captioning.decoding.child"
MAX_ATTEMPTS = 2  # the image is to blame when this many processes died while they decoded it
MAX_ATTEMPTS_WHEN_KILLED = 4  # if the last death was a SIGKILL from outside: the kernel sends it when memory runs out
_AHEAD = 16  # images of a caller for each process, decoded or not, that it has not taken yet
_DEFAULTS = Options()
T = TypeVar("T")


def open_pool(
    settings: Settings, size: int, count: int = 0, *, module: str = MODULE, keep_aspect: bool = False
) -> "DecodePool":
    """Return a pool with the limits of the settings. `count` 0: as many as the settings say, else one a core."""
    options = Options(settings.allow_unconfined_formats, keep_aspect)
    count = count or settings.decode_processes or available_cores()
    return DecodePool(count, size, limits_of(settings), settings.decode_timeout_seconds, module, options)


class DecodePool:
    """Decode processes, for callers on any threads."""

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
        self.count = count
        self._timeout_seconds = timeout_seconds
        layout, answers = Layout.of(size), Answers(size, limits.max_side, options.keep_aspect)
        arguments = [str(size), *(json.dumps(asdict(each)) for each in (limits, options, layout))]
        command = [*child_command(module), *arguments]
        self._driver = Driver(lambda: DecodeProcess(command, layout, answers), count, timeout_seconds)
        hide_memory()  # of a process that talks to hostile images and may know passwords

    def start_early(self) -> None:
        """Start a decode process before there is an image, without waiting for it."""
        self._driver.started()

    def started(self) -> Started:
        """Return what a decode process says about itself; start one if need be. Raises DecodePoolUnavailable."""
        return self._driver.started().result()

    @property
    def busy_seconds(self) -> float:
        """How long the processes have decoded so far, together."""
        return self._driver.busy_seconds

    def decode(self, data: bytes) -> DecodedImage:
        """Decode one image. Raises ImageError and DecodePoolUnavailable."""
        ((_, result),) = self.decode_all([DecodeRequest(data, None)], lambda _: None)
        if isinstance(result, ImageError):
            raise result
        return result

    def decode_all(
        self, requests: Iterable[DecodeRequest[T]], on_death: Callable[[DecodeRequest[T]], object]
    ) -> Iterator[tuple[DecodeRequest[T], DecodedImage | ImageError]]:
        """Decode images; yield each request with its result, in the order in which they are decoded.

        Requests are taken from the iterable as there is room, a few times as many as there are processes. `on_death` is
        called, on this thread, with the image that a decode process was decoding when it died, before the image is
        tried again or fails. Several threads may call this at once; each gets the same time of the processes.

        Raises DecodePoolUnavailable, and what the iterable and `on_death` raise.
        """
        caller, source, unfinished = Caller(), iter(requests), 0
        self._driver.join(caller)
        try:
            while True:
                unfinished += self._feed(caller, source, _AHEAD * self.count - unfinished)
                if not unfinished:
                    return
                task, outcome = caller.take()
                result = self._after_death(task, outcome, on_death) if isinstance(outcome, Death) else outcome
                if result is not None:
                    unfinished -= 1
                    yield task.request, result
        finally:
            self._driver.leave(caller)

    def close(self) -> None:
        """End all processes. Callers that wait get DecodePoolUnavailable."""
        self._driver.close()

    def _feed(self, caller: Caller, source: Iterator[DecodeRequest[T]], most: int) -> int:
        """Submit images, up to `most` and until one of the caller is decoded; return how many."""
        count = 0
        for request in islice(source, most):
            self._driver.submit(Task(request, caller, request.attempts))
            count += 1
            if not caller.outcomes.empty():
                break
        return count

    def _after_death(
        self, task: Task, death: Death, on_death: Callable[[DecodeRequest[T]], object]
    ) -> ImageError | None:
        """Count a death. Return the error of an image that has had its attempts; try others again."""
        task.attempts += 1
        on_death(task.request)
        if task.attempts < (MAX_ATTEMPTS_WHEN_KILLED if death.was_killed() else MAX_ATTEMPTS):
            self._driver.submit(task)
            return None
        if death.timed_out:
            limit = f"{self._timeout_seconds:g} s (CAPTIONING_DECODE_TIMEOUT_SECONDS)"
            return ImageError(Reason.TIMEOUT, f"decoding takes more than {limit}")
        return ImageError(Reason.CRASHED, f"decoding killed the process {task.attempts} times")
