"""The sweeper: a thread in every worker's parent process. It sends heartbeats, and wake-up messages for waiting work.

A message can be lost, a worker can die, a producer can commit and never send a message. All of these look alike in the
database: a chunk can be claimed while the queue is empty.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable

import structlog

from captioning.decoding.capability import capability_of
from captioning.errors import ServiceUnavailable
from captioning.queue.transport import DroppedMessages
from captioning.settings import Settings
from captioning.store import claims, workers
from captioning.store.database import Database
from captioning.store.workers import WorkerInfo
from captioning.terminal import printable
from worker.environment import MountedRoot, available_bundles, served_roots, worker_name
from worker.log import RepeatedErrors

log = structlog.get_logger(__name__)
HEARTBEAT_SECONDS = 5.0


class Sweeper(threading.Thread):
    """Sends this worker's heartbeats, and wake-up messages when it is this worker's turn.

    `wake` fills the queue up to a number of messages and returns how many it sent.
    """

    def __init__(self, db: Database, settings: Settings, wake: Callable[[int], int]) -> None:
        super().__init__(name="sweeper", daemon=True)
        self.db = db
        self.settings = settings
        self.wake = wake
        models = tuple(bundle.digest for bundle in available_bundles(settings).values())
        capability = capability_of(settings)
        self.worker = WorkerInfo(worker_name(settings), socket.gethostname(), models, settings.runtime, capability)
        self._errors = RepeatedErrors(log)
        self._since_heartbeat = HEARTBEAT_SECONDS  # seconds; the first one is due
        self._dropped_messages = 0  # at the last heartbeat
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopped.set()

    def run(self) -> None:
        """Repeat `step` until stopped, then remove this worker from the database."""
        while not self._stopped.is_set():
            self.step()
            self._stopped.wait(self.settings.sweep_seconds)
        with contextlib.suppress(ServiceUnavailable):  # then the row expires
            workers.remove_worker(self.db, self.worker.name)
        self.db.close()

    def step(self) -> None:
        """Send a heartbeat if one is due, then sweep. An error is logged and never ends the thread."""
        try:
            roots = self._visible_roots()
            if self._since_heartbeat >= HEARTBEAT_SECONDS:
                names = [root.name for root in roots.values()]
                workers.heartbeat(self.db, self.worker, names, self._count_dropped())
                self._since_heartbeat = 0.0
            self._sweep(list(roots))
        except ServiceUnavailable as error:
            self._errors.warning("service_unavailable", key=str(error), error=str(error))
        except Exception as error:
            self._errors.error("sweep_failed", key=f"{type(error).__name__}: {error}", exc_info=True)
        self._since_heartbeat += self.settings.sweep_seconds

    def _sweep(self, roots: list[int]) -> None:
        """Send wake-up messages for the chunks that this worker could claim, if it is this worker's turn.

        A worker that could claim none, because it does not see their root or lacks their model, takes no turn.
        """
        claimable = claims.count_claimable(self.db, self.worker.models, roots, self.settings.queue_window)
        if claimable and workers.take_sweep_turn(self.db, self.settings.sweep_seconds):
            sent = self.wake(claimable)
            if sent:
                log.info("wake_messages_sent", messages=sent, claimable_chunks=claimable)

    def _visible_roots(self) -> dict[int, MountedRoot]:
        """Return the roots with work that this machine sees; log those that it does not see."""
        visible = {}
        for root_id, root in served_roots(self.db, self.settings).items():
            if root.is_visible():
                visible[root_id] = root
            else:
                path = printable(os.fsdecode(root.path))
                self._errors.warning("root_not_visible", key=str(root_id), root=printable(root.name), path=path)
        return visible

    def _count_dropped(self) -> int:
        """Return how many messages this worker has dropped; log when there are more than at the last heartbeat."""
        if DroppedMessages.count > self._dropped_messages:
            self._dropped_messages = DroppedMessages.count
            reason = "they are not wake-up messages; does another program write to this queue?"
            self._errors.warning("messages_dropped", messages=self._dropped_messages, reason=reason)
        return DroppedMessages.count
