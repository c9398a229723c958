"""A thread that commits, in order, what the model has written, so that the model does not wait for the database."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from structlog.contextvars import bound_contextvars

from captioning.errors import StoreUnavailable
from captioning.store import results
from captioning.store.outcomes import Outcome
from worker.chunk_work import ChunkWork
from worker.stages import Stage

Finish = Callable[[ChunkWork, bool, Exception | None], Exception | None]
"""Completes a chunk if all of it is done, else releases it, perhaps because of an error; returns that or its own."""

_MOST_WAITING = 8  # batches
_MOST_AT_ONCE = 1024  # items in a transaction


@dataclass(frozen=True)
class _Entry:
    chunk: ChunkWork
    outcomes: list[Outcome]
    is_end: bool = False
    is_done: bool = False
    error: Exception | None = None


class Committer:
    """Commits batches, each in a transaction, and ends chunks, on one thread."""

    def __init__(self, finish: Finish, chunks: Callable[[], list[ChunkWork]]) -> None:
        """`chunks` returns those in work."""
        self._finish = finish
        self._chunks = chunks
        self._entries: queue.Queue[_Entry | None] = queue.Queue(_MOST_WAITING)
        self._held: _Entry | None = None
        self._store_error: StoreUnavailable | None = None  # of the last attempt, which took as long as one may take
        self.errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def commit(self, chunk: ChunkWork, outcomes: list[Outcome]) -> None:
        """Commit outcomes of a chunk, after those before. What fails ends the chunk."""
        self._entries.put(_Entry(chunk, outcomes))

    def end(self, chunk: ChunkWork, error: Exception | None = None, *, is_done: bool = False) -> None:
        """End a chunk after what is to be committed: all is done, or its turn is over, or an error ended it."""
        self._entries.put(_Entry(chunk, [], True, is_done, error))

    def close(self) -> None:
        """Wait until all is committed and end the thread."""
        self._entries.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            chunk = entry.chunk
            with bound_contextvars(job=chunk.claim.job_id, chunk=chunk.claim.chunk_id):
                if chunk.is_closed:
                    continue
                if self._store_error is not None:  # waiting again for each chunk would take a multiple of that time
                    self._end(chunk, self._store_error)
                elif entry.is_end:
                    self._end(chunk, entry.error, is_done=entry.is_done)
                else:
                    self._commit(chunk, self._with_following(entry))

    def _next(self) -> _Entry | None:
        entry, self._held = self._held, None
        return self._entries.get() if entry is None else entry

    def _with_following(self, entry: _Entry) -> list[Outcome]:
        """Return the outcomes of an entry and of those of its chunk that wait behind it: one transaction is enough."""
        outcomes = list(entry.outcomes)
        while len(outcomes) < _MOST_AT_ONCE:
            try:
                following = self._entries.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._entries.put(None)
                break
            if following.chunk is not entry.chunk or following.is_end:
                self._held = following
                break
            outcomes += following.outcomes
        return outcomes

    def _commit(self, chunk: ChunkWork, outcomes: list[Outcome]) -> None:
        db, claim, config = chunk.db, chunk.claim, chunk.config
        try:
            with chunk.resources.stages.timed(Stage.COMMIT):
                db.retry(lambda: results.commit_batch(db, claim, outcomes, config.provenance, config.lease_seconds))
        except Exception as error:  # of any kind: it concerns this chunk, and the others go on
            self._end(chunk, error)
            return
        chunk.lease.note_renewal()
        chunk.counts.update(outcome.state for outcome in outcomes)
        contents = [outcome.content.sha256 for outcome in outcomes if outcome.content is not None]
        chunk.resources.in_flight.give_back(claim, contents)
        for other in self._chunks():  # that wait for the model, which has just advanced
            try:
                other.lease.renew_if_due()
            except Exception as error:
                self._end(other, error)

    def _end(self, chunk: ChunkWork, error: Exception | None, *, is_done: bool = False) -> None:
        chunk.is_over = True
        error = self._finish(chunk, is_done, error)
        chunk.is_closed = True
        chunk.resources.in_flight.give_all_back(chunk.claim)
        if isinstance(error, StoreUnavailable):
            self._store_error = error
        if error is not None:
            self.errors.append(error)
