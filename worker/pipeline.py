"""The pipeline: several chunks are claimed, read and decoded while the model works, and commits run behind it.

Threads feed decoded images, the calling thread runs the model, another one commits. The next chunk is claimed before
the images of the others run out. What a chunk holds up, a dead disk or an image that hangs, holds up no other chunk.
"""

import contextvars
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from structlog.contextvars import bound_contextvars

from captioning.errors import DeviceFailed, FolderUnavailable, LeaseLost
from captioning.store.claims import Claim
from worker.adaptive_batch import AdaptiveBatch
from worker.chunk_work import ChunkWork, DecodedBatch
from worker.committing import Committer, Finish
from worker.ready import Ready, ReadyQueue
from worker.stages import Stage, Stages

if TYPE_CHECKING:  # imports torch
    from captioning.model.captioner import Captioner

FEEDERS, MOST_FEEDERS = 3, 16  # threads, each with one chunk; more than the first only for large batches
_BATCHES_AHEAD = 2  # that are decoded or will be; the next chunk is claimed when fewer are coming
_NOT_FATAL = (FolderUnavailable, LeaseLost)  # they concern one chunk; after others, none is claimed for a while


class Pipeline:
    """One run through chunks. Use it once."""

    def __init__(
        self,
        claim: Callable[[], Claim | None],
        open_chunk: Callable[[Claim], ChunkWork],
        captioner_of: Callable[[Claim], "Captioner"],
        finish: Finish,
        adaptive_batch: AdaptiveBatch,
        stages: Stages | None = None,
    ) -> None:
        """`claim` and `open_chunk` are called on one thread at a time."""
        self._claim, self._open_chunk, self._captioner_of = claim, open_chunk, captioner_of
        self._adaptive_batch, self._stages = adaptive_batch, stages or Stages()
        self._ready = ReadyQueue(self._images_ahead, self._stages)
        self._committer = Committer(finish, self._ready.chunks)
        self._claiming = threading.Lock()
        self._is_exhausted = False  # nothing more is claimed
        self._claim_errors: list[Exception] = []
        self._feeders: list[threading.Thread] = []

    def run(self, stop_requested: Callable[[], bool], seconds: float) -> list[Exception]:
        """Work until nothing is left to claim, a stop is requested, or some seconds have passed; return the errors.

        What is claimed then is finished first, except after a stop request: the rest of the chunks is released.
        Raises DeviceFailed.
        """
        self._until = time.monotonic() + seconds
        for _ in range(FEEDERS):
            self._start_feeder()
        try:
            while (ready := self._ready.take(self._adaptive_batch.size)) is not None:
                self._process(ready)
                if stop_requested():
                    break
        finally:
            self._end_all()
        return self._claim_errors + self._committer.errors

    def _images_ahead(self) -> int:
        return _BATCHES_AHEAD * self._adaptive_batch.largest

    def _start_feeder(self) -> None:
        context = contextvars.copy_context()  # of the log
        feeder = threading.Thread(target=context.run, args=(self._feed,), name="feed", daemon=True)
        self._ready.add_producer()
        self._feeders.append(feeder)
        feeder.start()

    # -- on the threads that feed --

    def _feed(self) -> None:
        try:
            while (chunk := self._next_chunk()) is not None:
                with bound_contextvars(job=chunk.claim.job_id, chunk=chunk.claim.chunk_id):
                    self._feed_chunk(chunk)
        except Exception as error:  # of a claim
            self._claim_errors.append(error)
            self._is_exhausted = True
        finally:
            self._ready.end_producer()

    def _next_chunk(self) -> ChunkWork | None:
        with self._claiming:
            if self._claims_no_more() or not self._ready.wait_for_demand(self._until) or self._claims_no_more():
                return None
            with self._stages.timed(Stage.CLAIM):
                claim = self._claim()
            if claim is None:
                self._is_exhausted = True
                return None
            chunk = self._open_chunk(claim)
            self._ready.add_chunk(chunk)
            if len(self._feeders) < self._feeders_for(len(claim.items)):
                self._start_feeder()
            return chunk

    def _feeders_for(self, images: int) -> int:
        """Return how many chunks of so many images may be in work: what is ahead, and one that is being begun."""
        chunks = math.ceil(self._images_ahead() / max(1, images)) + 1
        return min(MOST_FEEDERS, max(FEEDERS, chunks))

    def _claims_no_more(self) -> bool:
        return self._is_exhausted or any(not isinstance(error, _NOT_FATAL) for error in self._committer.errors)

    def _feed_chunk(self, chunk: ChunkWork) -> None:
        error = None
        try:
            for batch in chunk.batches():
                if not self._ready.put(Ready(chunk, batch)):
                    return
        except Exception as raised:  # of any kind: it ends this chunk
            error = raised
        self._ready.put(Ready(chunk, error=error))

    # -- on the thread that runs the model --

    def _process(self, ready: Sequence[Ready]) -> None:
        parts = [(r.chunk, r.batch) for r in ready if r.batch is not None and not r.chunk.is_over]
        if parts:
            self._caption(parts)
        for r in ready:
            if r.batch is None and not r.chunk.is_over:
                self._end(r.chunk, r.error, is_done=r.error is None)
        for chunk, _ in parts:
            if not chunk.is_over and chunk.turn_is_over:
                self._end(chunk)

    def _caption(self, parts: Sequence[tuple[ChunkWork, DecodedBatch]]) -> None:
        """Caption batches of one or several chunks at once, and hand the outcomes to the thread that commits."""
        claim = parts[0][0].claim
        images = [image.pixels for _, batch in parts for _, image in batch.to_caption]
        try:
            captions = iter(self._adaptive_batch.caption(self._captioner_of(claim), images, claim.options))
        except DeviceFailed as error:
            for chunk, _ in parts:
                self._end(chunk, error)
            raise
        except Exception as error:
            if len(parts) == 1:
                self._end(parts[0][0], error)
                return
            for part in parts:  # to blame no chunk for another one
                if not part[0].is_over:
                    self._caption([part])
            return
        for chunk, batch in parts:
            self._committer.commit(chunk, chunk.outcomes(batch, captions))

    def _end(self, chunk: ChunkWork, error: Exception | None = None, *, is_done: bool = False) -> None:
        chunk.is_over = True
        self._committer.end(chunk, error, is_done=is_done)

    def _end_all(self) -> None:
        """End what is in work, commit what is captioned, and wait for the threads."""
        self._is_exhausted = True
        self._ready.close()
        for chunk in self._ready.chunks():
            if not chunk.is_over:
                self._end(chunk)
        for feeder in self._feeders:
            feeder.join()
        for chunk in self._ready.chunks():  # claimed at this moment
            if not chunk.is_over:
                self._end(chunk)
        self._committer.close()
