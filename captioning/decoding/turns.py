"""Which image is decoded next. Each caller gets the same time of the decode processes, not the same number of images.

So a chunk of images that are slow to decode does not hold up the images of another chunk.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from captioning.decoding.messages import DecodedImage
from captioning.errors import CaptioningError, ImageError

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class DecodeRequest(Generic[T]):
    """The bytes of an image file to decode."""

    data: bytes
    item: T  # what the caller knows it by
    attempts: int = 0  # decode processes that died earlier while they decoded it


@dataclass(frozen=True)
class Death:
    """A decode process has ended while it decoded an image."""

    timed_out: bool
    was_killed: Callable[[], bool]  # from outside; it waits until the process has ended


@dataclass(eq=False)
class Caller:
    """One who waits for images. Its outcomes are those of its tasks, or an error that ends its waiting."""

    outcomes: "SimpleQueue[tuple[Task, DecodedImage | ImageError | Death] | CaptioningError]" = field(
        default_factory=SimpleQueue
    )
    waiting: "deque[Task]" = field(default_factory=deque)
    seconds: float = 0.0  # of decode processes that it has had, and that its images in them are expected to take
    expected: float = 0.001  # seconds for its next image, as its last ones took

    def take(self) -> "tuple[Task, DecodedImage | ImageError | Death]":
        """Wait for an outcome. Raises the error that ended the waiting."""
        outcome = self.outcomes.get()
        if isinstance(outcome, CaptioningError):
            raise outcome
        return outcome


@dataclass(eq=False, slots=True)
class Task:
    """An image that somebody waits for."""

    request: DecodeRequest[Any]
    caller: Caller
    attempts: int
    charged: float = 0.0  # seconds that the caller has paid for it


class Turns:
    """The images that wait for a decode process, by caller. For several threads."""

    def __init__(self) -> None:
        self._callers: list[Caller] = []
        self._lock = threading.Lock()
        self._count = 0
        self._closed: CaptioningError | None = None
        self._now = 0.0  # seconds that the caller had had who came last
        self.settled_seconds = 0.0  # that processes have taken for images, together

    def __len__(self) -> int:
        return self._count

    def join(self, caller: Caller) -> None:
        """Add a caller. Raises the error of `close`."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._callers.append(caller)

    def leave(self, caller: Caller) -> None:
        """Remove a caller and its images."""
        with self._lock:
            if caller in self._callers:
                self._callers.remove(caller)
                self._count -= len(caller.waiting)
                caller.waiting.clear()

    def add(self, task: Task) -> None:
        """Let an image wait behind those of its caller, which has saved no time up while none waited."""
        caller = task.caller
        with self._lock:
            if not caller.waiting:
                caller.seconds = max(caller.seconds, self._now)
            caller.waiting.append(task)
            self._count += 1

    def put_back(self, tasks: list[Task]) -> None:
        """Let images that no process has decoded wait before those of their callers."""
        with self._lock:
            for task in reversed(tasks):
                task.caller.seconds -= task.charged
                if task.caller in self._callers:
                    task.caller.waiting.appendleft(task)
                    self._count += 1

    def take(self, most: int, most_bytes: int) -> list[Task]:
        """Return images to decode next, and charge their callers: up to `most`, the last one exceeds `most_bytes`."""
        taken: list[Task] = []
        size = 0
        with self._lock:
            while self._count and len(taken) < most and size <= most_bytes:
                taken.append(self._next())
                size += len(taken[-1].request.data)
        return taken

    def _next(self) -> Task:
        caller = min((each for each in self._callers if each.waiting), key=lambda each: each.seconds)
        task = caller.waiting.popleft()
        self._count -= 1
        self._now = max(self._now, caller.seconds)
        task.charged = caller.expected
        caller.seconds += task.charged
        return task

    def settle(self, task: Task, seconds: float) -> None:
        """Charge the caller of a decoded image what it took."""
        caller = task.caller
        with self._lock:
            self.settled_seconds += seconds
            caller.seconds += seconds - task.charged
            caller.expected += 0.2 * (seconds - caller.expected)

    def end(self, error: CaptioningError) -> None:
        """Give all callers this error instead of results."""
        with self._lock:
            for caller in self._callers:
                self._count -= len(caller.waiting)
                caller.waiting.clear()
                caller.outcomes.put(error)

    def close(self, error: CaptioningError) -> None:
        """Let nobody join from now on."""
        with self._lock:
            self._closed = error
