"""How long each stage of the work takes, counted since the process began. Cheap, and for any threads."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import wraps
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Stage(StrEnum):
    """What a thread of the worker does. Several threads feed, so their stages may take more than the wall time."""

    CLAIM = "claim"  # a feeder claims a chunk
    READ = "read"  # a feeder reads and hashes files, or waits for them
    LOOK_UP = "look up"  # a feeder asks the database which contents have a caption
    DECODE = "decode"  # a feeder waits for decoded images
    BLOCKED = "blocked"  # a feeder waits until the model needs images
    STARVED = "starved"  # the thread with the model waits for images
    MODEL = "model"  # it captions
    ENCODE = "encode"  # the part of `model` in the encoder; on a GPU only until its work is queued
    COMMIT = "commit"  # the thread that commits commits


@dataclass
class Counters:
    """What was counted up to a moment. Numbers only grow."""

    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))
    images: int = 0  # that the model has captioned
    batches: int = 0
    wanted: int = 0  # images that these batches would have had if all had been full
    files: int = 0  # that were read
    bytes: int = 0  # of them
    deaths: int = 0  # of decode processes

    def since(self, earlier: "Counters") -> "Counters":
        """Return what was counted after an earlier moment."""
        return self._plus(earlier, -1)

    def __add__(self, other: "Counters") -> "Counters":
        return self._plus(other, 1)

    def _plus(self, other: "Counters", sign: int) -> "Counters":
        seconds = {stage: self.seconds[stage] + sign * other.seconds[stage] for stage in Stage}
        numbers = (f.name for f in fields(self) if f.name != "seconds")
        return Counters(seconds, **{name: getattr(self, name) + sign * getattr(other, name) for name in numbers})


class Stages:
    """Counts for one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters = Counters()

    def add(self, stage: Stage, seconds: float) -> None:
        with self._lock:
            self._counters.seconds[stage] += seconds

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Count the time of the body."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - began)

    def timing(self, stage: Stage, function: Callable[[T], R]) -> Callable[[T], R]:
        """Return the function with its time counted."""

        @wraps(function)
        def timed(argument: T) -> R:
            with self.timed(stage):
                return function(argument)

        return timed

    def count_read(self, size: int, seconds: float) -> None:
        """Count a file of some bytes that was read."""
        with self._lock:
            self._counters.seconds[Stage.READ] += seconds
            self._counters.files += 1
            self._counters.bytes += size

    def count_batch(self, images: int, wanted: int) -> None:
        """Count a batch of the model that could have had `wanted` images."""
        with self._lock:
            self._counters.images += images
            self._counters.batches += 1
            self._counters.wanted += max(images, wanted)

    def count_death(self) -> None:
        """Count the death of a decode process."""
        with self._lock:
            self._counters.deaths += 1

    def now(self) -> Counters:
        """Return what is counted so far."""
        with self._lock:
            return replace(self._counters, seconds=dict(self._counters.seconds))
