"""The one task: process chunks one after another for up to a minute. A wake-up message starts it."""

import os
import time
from math import inf
from typing import TYPE_CHECKING

import structlog

from captioning.errors import BrokerUnavailable, CaptioningError, DeviceFailed, LeaseLost, StoreUnavailable
from captioning.queue.celery_app import wake_workers
from captioning.queue.message import TASK_NAME
from worker.celery import app
from worker.log import RepeatedErrors

if TYPE_CHECKING:
    from worker.runner import Runner

log = structlog.get_logger(__name__)
errors = RepeatedErrors(log)
WAKE_SECONDS = 0.5  # between two looks whether others have work; a fast worker claims fifty chunks a second
TASK_SECONDS = 60.0  # after which a task claims no further chunk and the worker waits for the next message


@app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]
def process_chunks() -> None:
    """Claim and process chunks. The message carries nothing and the task returns nothing: the work is rows.

    A worker that has processed a chunk claims the next one without a message, because a message might reach a worker
    that does not see the images, or none. It sends messages for the other workers.
    """
    from worker.runner import get_runner  # imports torch, which the parent process never loads

    runner = get_runner()
    woken_at = -inf

    def wake_others_now_and_then() -> None:
        nonlocal woken_at
        if time.monotonic() - woken_at > WAKE_SECONDS:
            woken_at = time.monotonic()
            _wake_others(runner)

    try:
        ended_early = runner.work(TASK_SECONDS, wake_others_now_and_then)
    except DeviceFailed as error:  # for the rest of this process; Celery starts another
        log.error("device_failed", error=str(error))
        os._exit(os.EX_UNAVAILABLE)
    for reason in ended_early:
        if not isinstance(reason, CaptioningError):
            raise reason
        if not isinstance(reason, LeaseLost):  # the runner has logged it
            _log_unavailable(reason)  # the sweeper sends messages when it is over
    if not ended_early:
        _wake_others(runner)


def _wake_others(runner: "Runner") -> None:
    try:
        chunks = runner.claimable_chunks()
        if chunks:
            wake_workers(app, chunks)
    except (StoreUnavailable, BrokerUnavailable) as error:  # a sweeper sends them later; this worker needs no message
        _log_unavailable(error)


def _log_unavailable(error: CaptioningError) -> None:
    errors.warning("service_unavailable", key=str(error), error=str(error))
