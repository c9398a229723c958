"""Decoded batches of all chunks in work, as they wait for the model."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.chunk_work import ChunkWork, DecodedBatch
from worker.stages import Stage, Stages

_STUCK_SECONDS = 5.0  # without a batch, after which a chunk does not count as supply for the model
_FILL_SECONDS = 0.05  # that a batch waits for more images: a search takes about as long for few as for many


@dataclass(frozen=True)
class Ready:
    """A batch of a chunk, or the end of the chunk."""

    chunk: ChunkWork
    batch: DecodedBatch | None = None
    error: Exception | None = None  # that ended the chunk


class ReadyQueue:
    """A queue that is bounded by the number of images in it. All waiting of the pipeline's threads is here."""

    def __init__(self, most: Callable[[], int], stages: Stages | None = None) -> None:
        """`most` returns how many images may wait: decoded ones, and those that are being decoded."""
        self._most = most
        self._stages = stages or Stages()
        self._waiting: deque[Ready] = deque()
        self._images = 0
        self._producers = 0
        self._is_closed = False
        self._has_begun = False
        self._chunks: list[ChunkWork] = []
        self.changed = threading.Condition()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def chunks(self) -> list[ChunkWork]:
        """Return the chunks in work."""
        with self.changed:
            self._chunks = [chunk for chunk in self._chunks if not chunk.is_closed]
            return list(self._chunks)

    def add_chunk(self, chunk: ChunkWork) -> None:
        with self.changed:
            self._chunks.append(chunk)

    def wait_for_demand(self, until: float) -> bool:
        """Wait until fewer images are coming than may wait; return False when it is closed, or at a time.

        The first chunk is wanted whatever the time.
        """
        with self.changed:
            while not self._is_closed and (time.monotonic() < until or not self._has_begun):
                if self._coming() < self._most():
                    self._has_begun = True
                    return True
                self.changed.wait(0.2)
        return False

    def _coming(self) -> int:
        now = time.monotonic()
        chunks = (chunk for chunk in self._chunks if not chunk.is_over)
        return self._images + sum(c.undecoded for c in chunks if now - c.advanced < _STUCK_SECONDS)

    def put(self, ready: Ready) -> bool:
        """Wait for room and add; return False when it is closed or the chunk is over."""
        chunk, size = ready.chunk, len(ready.batch or ())
        began = time.monotonic()
        with self.changed:
            while size and self._images and self._images + size > self._most() and not self._is_unwanted(chunk):
                self.changed.wait(0.2)
            waited = time.monotonic() - began
            chunk.waited += waited
            self._stages.add(Stage.BLOCKED, waited)
            if self._is_unwanted(chunk) and ready.batch is not None:
                return False
            self._waiting.append(ready)
            self._images += size
            chunk.undecoded -= size + len(ready.batch.finished if ready.batch else ())
            chunk.advanced = time.monotonic()
            self.changed.notify_all()
        return True

    def _is_unwanted(self, chunk: ChunkWork) -> bool:
        return self._is_closed or chunk.is_over

    def take(self, most: int) -> list[Ready] | None:
        """Wait for something; return what fits one batch of at most `most` images. None when nothing comes any more.

        More images are waited for a moment, if some are coming.
        """
        with self._stages.timed(Stage.STARVED), self.changed:
            while not self._waiting:
                if self._is_closed or not self._producers:
                    return None
                self.changed.wait(0.2)
            fill_until = time.monotonic() + _FILL_SECONDS
            while self._should_fill(most) and (left := fill_until - time.monotonic()) > 0:
                self.changed.wait(left)
            taken = self._take(most)
            self.changed.notify_all()
            return taken

    def _should_fill(self, most: int) -> bool:
        return 0 < self._images < most and self._images < self._coming() and not self._is_closed

    def _take(self, room: int) -> list[Ready]:
        taken: list[Ready] = []
        while self._waiting and (not taken or _fit(taken[0], self._waiting[0])):
            size = len(self._waiting[0].batch or ())
            if size > room > 0:
                self._split_first(room)
                size = room
            elif size > room:
                break
            taken.append(self._waiting.popleft())
            self._images -= size
            room -= size
        return taken

    def _split_first(self, count: int) -> None:
        ready = self._waiting.popleft()
        assert ready.batch is not None
        first, rest = ready.batch.split(count)
        self._waiting.extendleft([replace(ready, batch=rest), replace(ready, batch=first)])

    def add_producer(self) -> None:
        """Expect entries of one more thread, until it calls `end_producer`."""
        with self.changed:
            self._producers += 1

    def end_producer(self) -> None:
        with self.changed:
            self._producers -= 1
            self.changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more: nothing is taken from now on."""
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()


def _fit(one: Ready, other: Ready) -> bool:
    """Return whether two entries may be in one batch: the same model writes their captions with the same options."""
    first, second = one.chunk.claim, other.chunk.claim
    return (first.model_digest, first.options) == (second.model_digest, second.options)
