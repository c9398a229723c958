"""Why a job is stalled: no worker, no model, a root that no worker sees, an error that workers report, a full disk."""

import shutil
from pathlib import Path

from captioning.settings import Settings
from captioning.store import jobs, workers
from captioning.store.database import Database
from captioning.store.workers import LiveWorker
from captioning.terminal import count
from captioning.values import JobState

FULL_DISK_BYTES = 5_000_000  # a disk with less free space than this counts as full


def diagnose(
    db: Database, settings: Settings, progress: jobs.Progress, full_disk_bytes: int = FULL_DISK_BYTES
) -> list[str]:
    """Return the reasons why an active job may be stalled, one sentence each; empty when there is none."""
    if progress.is_finished or progress.state == JobState.PAUSED or progress.done == progress.total:
        return []
    live = workers.live_workers(db)
    if not live:
        remedy = "run the same `producer submit` again" if settings.embedded else "start one with `worker`"
        return [f"no worker is running: {remedy}", *_full_disk(db, full_disk_bytes)]
    able = [worker for worker in live if progress.model_digest in worker.models]
    if not able:
        model = f"{progress.model} {progress.model_digest[:16]}"
        return [f"no worker has the job's model, {model}: is its bundle in one of the workers' model folders?"]
    who = "no worker" if len(able) == len(live) else "no worker that has the job's model"
    return [
        *(f"{who} sees the root {root!r}: is it mounted?" for root in _unseen_roots(db, able, progress)),
        *(f"{count(n, 'image')} waiting: {error}" for error, n in jobs.last_errors(db, progress.job)),
        *(
            f"{count(deaths, 'worker')} in a row died or failed while they held {path};"
            " it is retried at growing intervals"
            for path, deaths in jobs.fatal_images(db, progress.job)
        ),
        *_full_disk(db, full_disk_bytes),
    ]


def _unseen_roots(db: Database, able: list[LiveWorker], progress: jobs.Progress) -> list[str]:
    """Return the roots in which the job has work and that no worker reports.

    Workers report only roots with work, so a worker counts once it has sent a heartbeat since the job exists.
    """
    current = [worker for worker in able if worker.heartbeat_at > progress.created_at]
    if not current:
        return []
    seen = {root for worker in current for root in worker.roots}
    return [root for root in jobs.waiting_roots(db, progress.job) if root not in seen]


def _full_disk(db: Database, full_disk_bytes: int) -> list[str]:
    """Report that SQLite's disk is full. Workers cannot report it themselves: that would be a write."""
    folder = Path(db.engine.url.database or "").parent
    if db.is_sqlite and shutil.disk_usage(folder).free < full_disk_bytes:
        return [f"the disk of {folder} is full"]
    return []
