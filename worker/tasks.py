"""The one task: process chunks one after another for up to a minute. A wake-up message starts it."""

import os
import time

import structlog

from captioning.errors import BrokerUnavailable, CaptioningError, DeviceFailed, FolderUnavailable, LeaseLost
from captioning.queue.celery_app import wake_workers
from captioning.queue.message import TASK_NAME
from worker.celery import app
from worker.log import RepeatedErrors

log = structlog.get_logger(__name__)
errors = RepeatedErrors(log)
TASK_SECONDS = 60.0  # after which a task claims no further chunk and the worker waits for the next message


@app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]
def process_chunks() -> None:
    """Claim and process chunks. The message carries nothing and the task returns nothing: the work is rows.

    A worker that has processed a chunk claims the next one without a message, because a message might reach a worker
    that does not see the images, or none. It sends messages for the other workers.
    """
    from worker.runner import get_runner  # imports torch, which the parent process never loads

    runner = get_runner()
    started = time.monotonic()
    try:
        while (claim := runner.claim()) is not None:
            try:
                runner.process_chunk(claim)
            except FolderUnavailable as error:  # concerns some files of this chunk only
                _log_unavailable(error)
            claimable = runner.claimable_chunks()
            if claimable:
                _wake_others(claimable)
            if not claimable or time.monotonic() - started > TASK_SECONDS:
                return
    except LeaseLost:  # the runner has logged it
        return
    except DeviceFailed as error:  # for the rest of this process; Celery starts another
        log.error("device_failed", error=str(error))
        os._exit(os.EX_UNAVAILABLE)
    except CaptioningError as error:  # the sweeper sends messages when it is over
        _log_unavailable(error)


def _wake_others(chunks: int) -> None:
    try:
        wake_workers(app, chunks)
    except BrokerUnavailable as error:  # a sweeper sends them later; this worker needs no message to continue
        _log_unavailable(error)


def _log_unavailable(error: CaptioningError) -> None:
    errors.warning("service_unavailable", key=str(error), error=str(error))
