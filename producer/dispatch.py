"""Who does the work: the embedded stack, or the broker that is configured. Rings, and keeps up."""

import shutil
import sys
from pathlib import Path

from captioning.errors import ServiceUnavailable
from captioning.settings import Settings
from captioning.store import jobs, workers
from captioning.store.database import Database
from captioning.values import JobState
from producer.embedded.client import EmbeddedClient

_LEAST_FREE = 5_000_000  # bytes on a disk, below which it counts as full


class Dispatcher:
    """Makes sure that queued work is noticed; used as a context, at whose end an embedded stack may stop."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self.settings = settings
        self._stack = EmbeddedClient(settings) if settings.embedded else None

    def __enter__(self) -> "Dispatcher":
        return self

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()

    def begin(self) -> None:
        """Warm up while there is still something else to do."""
        if self._stack is not None:
            self._stack.begin()

    def wake_workers(self, chunks: int) -> None:
        """Ring for some chunks. When the broker is down, say so: the sweeper of a worker rings later."""
        url = self.settings.broker_url
        if self._stack is not None:
            self._stack.attach()
            url = self._stack.broker_url
        from captioning.queue.celery_app import make_celery, wake_workers  # celery takes a moment to import

        try:
            wake_workers(make_celery(self.settings.model_copy(update={"broker_url": url})), min(chunks, self.settings.queue_window))
        except ServiceUnavailable as error:
            print(f"producer: {error}; the work is queued and begins when a worker finds it.", file=sys.stderr)

    def diagnose(self, progress: jobs.Progress) -> list[str]:
        """Return why a job may stand still."""
        if self._stack is not None and self._stack.attached and not workers.live_workers(self._db):
            return [f"its worker is still starting; {self._stack.log} says more"]
        return diagnose(self._db, self.settings, progress)

    def ensure_running(self) -> None:
        """Hold on to the stack while waiting. Raises CaptioningError when it can't run."""
        if self._stack is not None:
            self._stack.check()
            if not self._stack.attached:
                self._stack.attach()


def diagnose(db: Database, settings: Settings, progress: jobs.Progress) -> list[str]:
    """Return why an active job may stand still, a sentence each."""
    if progress.is_finished or progress.state == JobState.PAUSED or progress.done == progress.total:
        return []
    workers = workers.live_workers(db)
    if not workers:
        how = "run the same `producer submit` again" if settings.embedded else "start one with `worker`"
        return [f"no worker is at work: {how}", *_full_disk(db)]
    able = [worker for worker in workers if progress.model_digest in worker.models]
    if not able:
        digest = progress.model_digest[:16]
        return [f"no worker has the job's model, {progress.model} {digest}: is its bundle where they look?"]
    heard = [worker for worker in able if worker.heartbeat_at > progress.created_at]  # they tell of roots with work only
    seen = {root for worker in heard for root in worker.roots}
    unseen = [root for root in jobs.waiting_roots(db, progress.job) if heard and root not in seen]
    who = "no worker" if len(able) == len(workers) else "no worker that has its model"
    return [
        *(f"{who} sees the root {root!r}: is it mounted?" for root in unseen),
        *(f"{n} images wait: {said}" for said, n in jobs.last_errors(db, progress.job)),
        *(
            f"{deaths} workers died in a row while they had {path} in hand; it is tried again less and less often."
            for path, deaths in jobs.fatal_images(db, progress.job)
        ),
        *_full_disk(db),
    ]


def _full_disk(db: Database) -> list[str]:
    """Say so when SQLite's disk is full: then workers can't note it themselves."""
    folder = Path(db.engine.url.database or "").parent
    if db.is_sqlite and shutil.disk_usage(folder).free < _LEAST_FREE:
        return [f"the disk of {folder} is full"]
    return []
