"""Who does the work: the embedded stack, or the broker that is configured. Rings, and keeps up."""

import sys

from captioning.errors import ServiceTrouble
from captioning.settings import Settings
from captioning.store import jobs
from captioning.store.database import Database
from captioning.values import JobState
from producer.stack import Stack


class Engine:
    """Makes sure that queued work is noticed; used as a context, at whose end an embedded stack may stop."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self.settings = settings
        self._stack = Stack(settings) if settings.embedded else None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()

    def begin(self) -> None:
        """Warm up while there is still something else to do."""
        if self._stack is not None:
            self._stack.begin()

    def ring(self, chunks: int) -> None:
        """Ring for some chunks. When the broker is down, say so: the sweeper of a worker rings later."""
        url = self.settings.broker_url
        if self._stack is not None:
            self._stack.attach()
            url = self._stack.broker_url
        from captioning.queue import make_celery, ring  # celery takes a moment to import

        try:
            ring(make_celery(self.settings.model_copy(update={"broker_url": url})), min(chunks, self.settings.bells))
        except ServiceTrouble as trouble:
            print(f"producer: {trouble}; the work is queued and begins when a worker finds it.", file=sys.stderr)

    def troubles(self, progress: jobs.Progress) -> list[str]:
        """Return why a job may stand still."""
        return troubles(self._db, self.settings, progress)

    def keep_up(self) -> None:
        """Hold on to the stack while waiting. Raises CaptioningError when it can't run."""
        if self._stack is not None:
            self._stack.check()
            if not self._stack.attached:
                self._stack.attach()


def troubles(db: Database, settings: Settings, progress: jobs.Progress) -> list[str]:
    """Return why an active job may stand still, a sentence each."""
    if progress.over or progress.state == JobState.PAUSED or progress.done == progress.total:
        return []
    workers = jobs.workers(db)
    if not workers:
        how = "run the same `producer submit` again" if settings.embedded else "start one with `worker`"
        return [f"no worker is at work: {how}"]
    seen = {root for worker in workers for root in worker.roots}
    unseen = [root for root in jobs.waiting_roots(db, progress.job) if root not in seen]
    fatal = jobs.fatal_pictures(db, progress.job)
    return [f"no worker sees the root {root!r}: is it mounted?" for root in unseen] + [
        f"{deaths} workers died in a row while they had {path} in hand; it is tried again less and less often."
        for path, deaths in fatal
    ]
