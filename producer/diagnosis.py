"""Why a job is stalled: no worker, no model, a root that no worker sees, an error that workers report, a full disk."""

from pathlib import Path

from captioning.errors import StoreRefused, StoreUnavailable
from captioning.settings import Settings
from captioning.store import jobs, workers
from captioning.store.database import Database
from captioning.store.workers import LiveWorker
from captioning.terminal import count
from captioning.values import JobState
from producer.disks import LOW_BYTES, shortage

RECENT_JOBS = 100  # of which one that stands still is named beside the newest


def diagnose(db: Database, settings: Settings, progress: jobs.Progress, full_disk_bytes: int = LOW_BYTES) -> list[str]:
    """Return the reasons why an active job may be stalled, one sentence each; empty when there is none."""
    if progress.is_finished or progress.state == JobState.PAUSED or progress.done == progress.total:
        return []
    live, disks = workers.live_workers(db), short_disks(db, settings, full_disk_bytes)
    if not live:
        remedy = "run the same `producer submit` again" if settings.embedded else "start one with `worker`"
        return [f"no worker is running: {remedy}", *_refused_writes(db), *disks]
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
        *disks,
    ]


def other_waiting_job(db: Database, settings: Settings, job: int) -> str:
    """Return a line about the newest other job that stands still; empty when there is none."""
    for progress in jobs.progress(db, limit=RECENT_JOBS):
        if progress.job != job and (reasons := diagnose(db, settings, progress)):
            stop = "" if reasons[0].endswith(("?", ".")) else ";"
            return f"job {progress.job} is also stalled: {reasons[0]}{stop} producer status {progress.job}"
    return ""


def _unseen_roots(db: Database, able: list[LiveWorker], progress: jobs.Progress) -> list[str]:
    """Return the roots in which the job has work and that no worker reports.

    Workers report only roots with work, so a worker counts once it has sent a heartbeat since the job exists.
    """
    current = [worker for worker in able if worker.heartbeat_at > progress.created_at]
    if not current:
        return []
    seen = {root for worker in current for root in worker.roots}
    return [root for root in jobs.waiting_roots(db, progress.job) if root not in seen]


def short_disks(db: Database, settings: Settings, least_bytes: int = LOW_BYTES) -> list[str]:
    """Report disks that are full or read-only. A worker cannot report that itself: it would be a write."""
    return [text for folder in needed_folders(db, settings) if (text := shortage(folder, least_bytes))]


def needed_folders(db: Database, settings: Settings) -> list[Path]:
    """Return the folders of this machine in which a job's work writes: the embedded worker's, and SQLite's."""
    folders = [*([settings.data_dir] if settings.embedded else []), *([db.folder] if db.folder else [])]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _refused_writes(db: Database) -> list[str]:
    """Report a database that can be read but not written to: its workers cannot even tell that they are alive."""
    if db.is_sqlite:  # an update that is taken back needs no space there; its folder is looked at instead
        return []
    try:
        workers.try_to_write(db)
    except StoreRefused:  # of this user, which says nothing about the workers'
        return []
    except StoreUnavailable as error:
        return [str(error)]
    return []
