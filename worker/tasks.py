"""The one task: come when the bell rings, take the best chunk there is, work it off."""

import os

import structlog

from captioning.errors import CaptioningError, DeviceBroken
from captioning.queue import ring
from captioning.store.claims import Fenced
from captioning.transport import CAPTION_CHUNK
from worker.celery import app

log = structlog.get_logger()


@app.task(name=CAPTION_CHUNK)  # type: ignore[untyped-decorator]
def caption_chunk() -> None:
    """Caption one chunk. Nothing goes in and nothing comes out: rows say what there is to do and how it went."""
    from worker.station import station  # torch, which the parent of the pool never loads

    here = station()
    try:
        claim = here.claim()
        if claim is None:
            return
        here.work_off(claim)
        more = here.more_to_do()
        if more:
            ring(app, more)
    except Fenced:
        log.info("chunk_taken_away")
    except DeviceBroken as broken:  # for this process; the next may find the device well
        log.error("device_broken", trouble=str(broken))
        os._exit(os.EX_UNAVAILABLE)
    except CaptioningError as trouble:  # the sweeper rings again when it is over
        log.warning("service_trouble", trouble=str(trouble))
