"""The one task: come when the bell rings, take the best chunk there is, work it off, and the next, for a while."""

import os
import time

import structlog

from captioning.errors import CaptioningError, DeviceBroken
from captioning.queue import BrokerUnavailable, ring
from captioning.store.claims import Fenced
from captioning.transport import CAPTION_CHUNK
from worker.celery import app
from worker.reading import FolderUnavailable

log = structlog.get_logger()
SITTING_SECONDS = 60.0  # after which a worker waits for the next bell


@app.task(name=CAPTION_CHUNK)  # type: ignore[untyped-decorator]
def caption_chunk() -> None:
    """Caption chunks. Nothing goes in and nothing comes out: rows say what there is to do and how it went.

    Who has just done one goes on with the next without a bell for it: that might reach a worker that doesn't see
    the pictures, or none. Others are rung for.
    """
    from worker.station import station  # torch, which the parent of the pool never loads

    here = station()
    try:
        begun = time.monotonic()
        while (claim := here.claim()) is not None:
            try:
                here.work_off(claim)
            except FolderUnavailable as trouble:  # of some pictures of this chunk; there may be others
                log.warning("service_trouble", trouble=str(trouble))
            more = here.more_to_do()
            if more:
                _ring_for_others(more)
            if not more or time.monotonic() - begun > SITTING_SECONDS:
                return
    except Fenced:
        log.info("chunk_taken_away")
    except DeviceBroken as broken:  # for this process; the next may find the device well
        log.error("device_broken", trouble=str(broken))
        os._exit(os.EX_UNAVAILABLE)
    except CaptioningError as trouble:  # the sweeper rings again when it is over
        log.warning("service_trouble", trouble=str(trouble))


def _ring_for_others(chunks: int) -> None:
    try:
        ring(app, chunks)
    except BrokerUnavailable as trouble:  # a sweeper rings when it is back; we need no bell to go on
        log.warning("service_trouble", trouble=str(trouble))
