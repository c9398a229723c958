"""Bring a job's work to workers: through the configured broker, or through an embedded broker and worker."""

from collections.abc import Callable

from captioning.errors import BrokerRefused, CaptioningError, ServiceUnavailable
from captioning.settings import Settings
from captioning.store import jobs, workers
from captioning.store.database import Database
from producer.diagnosis import diagnose, needed_folders, short_disks
from producer.disks import DiskWatch
from producer.embedded.client import EmbeddedClient
from producer.render import print_warning

CAPTIONING, WAITING = "captioning", "waiting for a worker"  # stages of a job


class Dispatcher:
    """A context in which queued work gets done. In embedded mode the worker may stop at its end."""

    def __init__(self, db: Database, settings: Settings, embedded: EmbeddedClient | None = None) -> None:
        """`embedded` is the connection to an embedded worker that is started already."""
        self._db = db
        self._settings = settings
        self._embedded = embedded or (EmbeddedClient(settings) if settings.embedded else None)
        self._disks = DiskWatch(needed_folders(db, settings))

    def __enter__(self) -> "Dispatcher":
        return self

    def __exit__(self, *_: object) -> None:
        if self._embedded is not None:
            self._embedded.close()

    def start_early(self) -> None:
        """Start the embedded worker, if there is one, while files are still being registered."""
        if self._embedded is not None:
            self._embedded.start()

    def wake_workers(self, warn: Callable[[str], object] = print_warning) -> None:
        """Send wake-up messages. When the broker is down, `warn`: a worker's sweeper finds the work later.

        Raises BrokerRefused when no worker could use the broker either.
        """
        settings = self._settings
        if self._embedded is not None:
            self._embedded.attach()
            settings = settings.model_copy(update={"broker_url": self._embedded.broker_url})
        from captioning.queue.celery_app import make_celery, refuse_shards, wake_workers  # it takes a moment

        app = make_celery(settings)
        try:
            refuse_shards(app)
            wake_workers(app, settings.queue_window)
        except BrokerRefused:
            raise
        except ServiceUnavailable as error:
            warn(f"{error} The work is queued and starts when a worker finds it.")

    def ensure_running(self) -> None:
        """Keep the embedded worker running, if there is one. Raises CaptioningError when it cannot run."""
        if self._embedded is not None:
            self._embedded.check()
            if not self._embedded.attached:
                self._embedded.attach()

    def stage(self, job: int) -> str:
        """Return what happens to a job while no image of it gets done."""
        if jobs.is_held(self._db, job):
            return CAPTIONING
        if self._embedded is None:
            return WAITING
        return "loading the model" if workers.live_workers(self._db) else "starting a worker"

    def diagnose(self, progress: jobs.Progress) -> list[str]:
        """Return the reasons why a job may be stalled."""
        if self._embedded is not None and self._embedded.attached and not workers.live_workers(self._db):
            starting = f"the embedded worker is still starting; its log is {self._embedded.log}"
            return [starting, *short_disks(self._db, self._settings)]
        return diagnose(self._db, self._settings, progress)

    def check_disks(self) -> None:
        """Raise CaptioningError when a disk that a stalled job needs has been full or read-only for a while."""
        error = self._disks.error_for(self._settings.database_retry_seconds)
        if error:
            raise CaptioningError(f"{error}; the same command continues.")


class ExternalBackend:
    """The backend of a job that other processes run: there is nothing to keep running."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings

    def ensure_running(self) -> None:
        pass

    def stage(self, job: int) -> str:
        """Return what happens to a job while no image of it gets done."""
        return CAPTIONING if jobs.is_held(self._db, job) else WAITING

    def diagnose(self, progress: jobs.Progress) -> list[str]:
        """Return the reasons why a job may be stalled."""
        return diagnose(self._db, self._settings, progress)

    def check_disks(self) -> None:
        pass
