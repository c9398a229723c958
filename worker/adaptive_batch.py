"""How many images go through the model at once: a whole batch, until the device runs out of memory."""

import time
from collections.abc import Sequence

import structlog

from captioning.errors import DeviceOutOfMemory
from captioning.model.captioner import Captioner
from captioning.model.pixels import Pixels
from captioning.values import Caption, DecodeOptions

log = structlog.get_logger(__name__)
GROW_AFTER = 64  # successes in a row, after which twice as many images are tried
SLOWEST_DECAY = 0.9  # per batch


class AdaptiveBatch:
    """Halves the number of images when the device runs out of memory, and doubles it again after many successes."""

    def __init__(self) -> None:
        self.limit: int | None = None  # images at once; None while every batch has fitted
        self.seconds = 0.0  # that a slow batch takes: the longest time, decaying with each batch
        self._successes = 0

    def caption(self, captioner: Captioner, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        """Return one caption per image, in order. Raises DeviceOutOfMemory when not even one image fits."""
        captions: list[Caption] = []
        started = time.monotonic()
        while len(captions) < len(images):
            part = images[len(captions) : len(captions) + (self.limit or len(images))]
            try:
                captions += captioner.caption(part, options)
            except DeviceOutOfMemory:
                if len(part) == 1:
                    raise
                self.limit, self._successes = len(part) // 2, 0
                log.warning("device_out_of_memory", images=len(part), new_limit=self.limit)
                continue
            self._successes += 1
            if self.limit is not None and self._successes % GROW_AFTER == 0:
                self.limit *= 2
        self.seconds = max(time.monotonic() - started, SLOWEST_DECAY * self.seconds)
        return captions
