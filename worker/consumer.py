"""Celery's consumer, with growing pauses between its attempts to use a broker that refuses what it asks for.

Celery pauses only while nobody answers. A broker that answers with an error (no rights, no memory, read-only) would be
asked again at once, hundreds of times a minute.
"""

import time
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from captioning.queue.broker_errors import explain
from worker.log import RepeatedErrors

log = structlog.get_logger(__name__)
MAX_PAUSE_SECONDS = 30.0
STABLE_SECONDS = 60.0  # after a connection that lasted this long, the pauses begin anew
_POLL_SECONDS = 0.2


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Logs one line with the cause and a remedy, and waits before it connects again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.errors = RepeatedErrors(log)
        self.pauses = Pauses()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection, as Celery does, then pause. A stop is obeyed at once."""
        error = str(explain(exc))
        self.errors.warning("broker_connection_lost", key=error, error=error)
        super().on_connection_error_after_connected(exc)
        until = time.monotonic() + self.pauses.next_pause(time.monotonic())
        while time.monotonic() < until:
            maybe_shutdown()
            time.sleep(_POLL_SECONDS)


class Pauses:
    """How long to wait after each error: nothing at first, then twice as long each time."""

    def __init__(self) -> None:
        self._count = 0
        self._last = float("-inf")

    def next_pause(self, now: float) -> float:
        """Return the pause, in seconds, after an error at a time of a monotonic clock."""
        self._count = 0 if now - self._last > STABLE_SECONDS else self._count + 1
        self._last = now
        return 0.0 if self._count == 0 else min(0.5 * 2.0**self._count, MAX_PAUSE_SECONDS)
