"""What a worker checks of the database and the broker before it takes work, while its pool process loads the model."""

from typing import Any

import structlog
from celery import bootsteps
from celery.exceptions import WorkerTerminate
from celery.worker.state import maybe_shutdown

from captioning.errors import BrokerRefused, BrokerUnavailable, CaptioningError, StoreUnavailable
from captioning.queue.celery_app import refuse_shards
from captioning.settings import Settings
from worker.celery import app, settings

log = structlog.get_logger(__name__)


class Checks(bootsteps.StartStopStep):  # type: ignore[misc]
    """A step of Celery's worker between the pool process, which starts first, and the consumer, which takes messages.

    When a check fails, the worker ends and `error` says why.
    """

    requires = ("celery.worker.components:Pool",)
    error: CaptioningError | None = None

    def start(self, parent: Any) -> None:
        """Ask the worker to end when it cannot work."""
        try:
            check_database(settings)
            check_broker()
        except CaptioningError as error:
            Checks.error = error
            raise WorkerTerminate from error


def check_database(settings: Settings) -> None:
    """Raise CaptioningError when the database cannot be used. Waits for one that does not answer."""
    import migrations  # imports SQLAlchemy
    from captioning.store.database import Database

    db = Database.open(settings)

    def ensure_schema() -> None:
        maybe_shutdown()
        migrations.ensure_schema(db)

    try:
        ensure_schema()
    except StoreUnavailable as error:  # it may be starting too
        log.warning("waiting_for_database", error=str(error), seconds=settings.database_retry_seconds)
        db.retry(ensure_schema)
    finally:
        db.close()


def check_broker() -> None:
    """Raise BrokerRefused for a broker that cannot be used. One that does not answer may be starting too."""
    try:
        refuse_shards(app)
    except BrokerRefused:
        raise
    except BrokerUnavailable as error:
        log.warning("waiting_for_broker", error=str(error))
