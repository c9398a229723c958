"""The one task: come when the bell rings, take the best chunk there is, work it off, and the next, for a while."""

import os
import time

import structlog

from captioning.errors import BrokerUnavailable, CaptioningError, DeviceFailed, FolderUnavailable, LeaseLost
from captioning.queue.celery_app import wake_workers
from captioning.queue.message import TASK_NAME
from worker.celery import app

log = structlog.get_logger()
TASK_SECONDS = 60.0  # after which a worker waits for the next bell


@app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]
def caption_chunk() -> None:
    """Caption chunks. Nothing goes in and nothing comes out: rows say what there is to do and how it went.

    Who has just done one goes on with the next without a bell for it: that might reach a worker that doesn't see
    the images, or none. Others are rung for.
    """
    from worker.runner import station  # torch, which the parent of the pool never loads

    here = station()
    try:
        begun = time.monotonic()
        while (claim := here.claim()) is not None:
            try:
                here.process_chunk(claim)
            except FolderUnavailable as error:  # of some images of this chunk; there may be others
                log.warning("service_trouble", error=str(error))
            more = here.claimable_chunks()
            if more:
                _ring_for_others(more)
            if not more or time.monotonic() - begun > TASK_SECONDS:
                return
    except LeaseLost:
        log.info("chunk_taken_away")
    except DeviceFailed as broken:  # for this process; the next may find the device well
        log.error("device_broken", error=str(broken))
        os._exit(os.EX_UNAVAILABLE)
    except CaptioningError as error:  # the sweeper rings again when it is over
        log.warning("service_trouble", error=str(error))


def _ring_for_others(chunks: int) -> None:
    try:
        wake_workers(app, chunks)
    except BrokerUnavailable as error:  # a sweeper rings when it is back; we need no bell to go on
        log.warning("service_trouble", error=str(error))
