"""How many images the model is given at once: as many as come, until the device says that it is full."""

import time
from collections.abc import Sequence

import structlog

from captioning.errors import DeviceOutOfMemory
from captioning.model.captioner import Captioner
from captioning.model.pixels import Pixels
from captioning.values import Caption, DecodeOptions

log = structlog.get_logger()
GOOD_PORTIONS = 64  # in a row, after which twice as many images are tried again


class AdaptiveBatch:
    """Halves the batch when the device is full, and grows it again when that has gone well for a while."""

    def __init__(self) -> None:
        self.most: int | None = None  # images at once; None as long as nothing is known against any number
        self.seconds = 0.0  # that a micro-batch takes, a slow one; forgotten slowly
        self._good = 0

    def caption(self, captioner: Captioner, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        """Return one caption an image, in order. Raises DeviceOutOfMemory when there is no room for a single one."""
        said: list[Caption] = []
        begun = time.monotonic()
        while len(said) < len(images):
            portion = images[len(said) : len(said) + (self.most or len(images))]
            try:
                said += captioner.caption(portion, options)
            except DeviceOutOfMemory:
                if len(portion) == 1:
                    raise
                self.most, self._good = len(portion) // 2, 0
                log.warning("device_full", images=len(portion), images_from_now=self.most)
                continue
            self._good += 1
            if self.most is not None and self._good % GOOD_PORTIONS == 0:
                self.most *= 2
        self.seconds = max(time.monotonic() - begun, 0.9 * self.seconds)
        return said
