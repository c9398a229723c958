"""Finds work that nobody was told of, and rings: a thread in every worker's parent.

A bell can be lost, a worker can die, a producer can commit and never ring. All of these look alike in rows:
a chunk that could be claimed while the queue is empty.
"""

import contextlib
import socket
import threading

import structlog
from celery import Celery

from captioning.errors import ServiceUnavailable
from captioning.queue.celery_app import wake_workers
from captioning.queue.transport import DroppedMessages
from captioning.settings import Settings
from captioning.store import leases, workers
from captioning.store.database import Database
from captioning.store.workers import WorkerInfo
from worker.environment import available_bundles, visible_roots, worker_name

log = structlog.get_logger()
HELLO_SECONDS = 5.0


class Sweeper(threading.Thread):
    """Says that this worker is there, and rings for forgotten work when it is its turn."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        super().__init__(name="sweeper", daemon=True)
        self.app = app
        self.settings = settings
        self.db = Database.open(settings)
        models = tuple(bundle.digest for bundle in available_bundles(settings).values())
        self.presence = WorkerInfo(worker_name(settings), socket.gethostname(), models, settings.runtime)
        self._said_dropped = 0
        self._ended = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._ended.set()

    def run(self) -> None:
        """Sweep until stopped; error is waited out."""
        since_hello = HELLO_SECONDS
        while not self._ended.is_set():
            try:
                if since_hello >= HELLO_SECONDS:
                    places = visible_roots(self.db, self.settings).values()
                    workers.heartbeat(self.db, self.presence, [place.name for place in places], self._dropped())
                    since_hello = 0.0
                self.sweep()
            except ServiceUnavailable as error:
                log.warning("service_trouble", error=str(error))
            except Exception:  # a sweeper that dies leaves a worker deaf to what it wasn't told of
                log.exception("sweep_failed")
            since_hello += self.settings.sweep_seconds
            self._ended.wait(self.settings.sweep_seconds)
        with contextlib.suppress(ServiceUnavailable):  # the row grows old by itself
            workers.remove_worker(self.db, self.presence.name)
        self.db.close()

    def _dropped(self) -> int:
        """Return how many messages this worker has dropped, and say so when there are more than the last time."""
        if DroppedMessages.count > self._said_dropped:
            self._said_dropped = DroppedMessages.count
            log.warning("messages_dropped", count=DroppedMessages.count, why="they are no bells: who else writes here?")
        return DroppedMessages.count

    def sweep(self) -> None:
        """Ring for the chunks that this worker could claim now, as far as bells are missing, if it is its turn.

        One that could claim none, because it doesn't see their root or lacks their model, takes no turn away from
        one that could.
        """
        roots = list(visible_roots(self.db, self.settings))
        waiting = leases.count_claimable(self.db, self.presence.models, roots, self.settings.queue_window)
        if waiting and workers.take_sweep_turn(self.db, self.settings.sweep_seconds) and wake_workers(self.app, waiting):
            log.info("rang", chunks=waiting)
