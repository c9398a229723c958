"""Decoded batches of all chunks in work, as they wait for the model."""

import threading
import time
from collections import deque
from dataclasses import dataclass

from worker.chunk_work import ChunkWork, DecodedBatch

_STUCK_SECONDS = 5.0  # without a batch, after which a chunk does not count as supply for the model


@dataclass(frozen=True)
class Ready:
    """A batch of a chunk, or the end of the chunk."""

    chunk: ChunkWork
    batch: DecodedBatch | None = None
    error: Exception | None = None  # that ended the chunk


class ReadyQueue:
    """A queue that is bounded by the number of images in it. All waiting of the pipeline's threads is here."""

    def __init__(self, producers: int, most: int) -> None:
        """`producers` are the threads that put, each until `end_producer`; `most` are images that wait."""
        self._most = most
        self._waiting: deque[Ready] = deque()
        self._images = 0
        self._producers = producers
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

    def wait_for_demand(self, least: int, until: float) -> bool:
        """Wait until fewer than `least` images are coming; return False when it is closed, or at a time.

        The first chunk is wanted whatever the time.
        """
        with self.changed:
            while not self._is_closed and (time.monotonic() < until or not self._has_begun):
                if self._coming() < least:
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
            while size and self._images and self._images + size > self._most and not self._is_unwanted(chunk):
                self.changed.wait(0.2)
            chunk.waited += time.monotonic() - began
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
        """Wait for something; return what fits one batch of at most `most` images. None when nothing comes any more."""
        with self.changed:
            while not self._waiting:
                if self._is_closed or not self._producers:
                    return None
                self.changed.wait(0.2)
            taken = [self._waiting.popleft()]
            size = len(taken[0].batch or ())
            while self._waiting and _fit(taken[0], self._waiting[0]):
                more = len(self._waiting[0].batch or ())
                if size + more > most:
                    break
                taken.append(self._waiting.popleft())
                size += more
            self._images -= size
            self.changed.notify_all()
            return taken

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
