"""How many images go through the model at once: as many as are asked for, or with which the device is fastest.

Never more than the device has memory for.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import structlog

from captioning.errors import DeviceOutOfMemory
from captioning.model.pixels import Pixels
from captioning.settings import MAX_BATCH_SIZE
from captioning.values import Caption, DecodeOptions
from worker.batch_climb import MAX_SECONDS, BatchClimb
from worker.stages import Stage, Stages

if TYPE_CHECKING:  # imports torch
    from captioning.model.captioner import Captioner

log = structlog.get_logger(__name__)
GROW_AFTER = 64  # successes in a row, after which twice as many images are tried
SLOWEST_DECAY = 0.9  # per batch
CPU_START, CPU_MOST = 32, 128  # more gains nothing there and costs memory
GPU_START = 128


def _range(device: str) -> tuple[int, int]:
    return (CPU_START, CPU_MOST) if device == "cpu" else (GPU_START, MAX_BATCH_SIZE)


def describe_batch(size: int | Literal["auto"], device: str) -> str:
    """Return for people how many images a batch has."""
    if size != "auto":
        return f"{size} images"
    start, most = _range(device)
    return f"auto: {start} images, more while that is faster, at most {most}"


class AdaptiveBatch:
    """Halves the number of images when the device runs out of memory, and doubles it again after many successes."""

    def __init__(
        self,
        size: int | Literal["auto"] = "auto",
        device: str = "cpu",
        max_seconds: float = MAX_SECONDS,
        stages: Stages | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`auto` finds a size for the device, with which a batch takes at most `max_seconds`."""
        self.limit: int | None = None  # images at once; None while every batch has fitted
        self.seconds = 0.0  # that a slow batch takes: the longest time, decaying with each batch
        self._climb = BatchClimb(*_range(device), max_seconds) if size == "auto" else None
        self._fixed = 0 if size == "auto" else size
        self._stages = stages or Stages()
        self._clock = clock
        self._successes = 0

    @property
    def size(self) -> int:
        """How many images the next batch should have."""
        return self._fixed if self._climb is None else self._within_limit(self._climb.wanted)

    @property
    def is_settled(self) -> bool:
        """Whether the size stays as it is."""
        return self._climb is None or self._climb.is_settled

    @property
    def largest(self) -> int:
        """The most images that a batch may have soon."""
        return self._fixed if self._climb is None else self._within_limit(self._climb.largest)

    def _within_limit(self, size: int) -> int:
        return size if self.limit is None else min(size, self.limit)

    def caption(self, captioner: "Captioner", images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        """Return one caption per image, in order. Raises DeviceOutOfMemory when not even one image fits."""
        wanted, started = self.size, self._clock()
        with self._stages.timed(Stage.MODEL):
            captions, in_one = self._caption(captioner, images, options)
        seconds = self._clock() - started
        self.seconds = max(seconds, SLOWEST_DECAY * self.seconds)
        if images:
            self._stages.count_batch(len(images), wanted)
        if self._climb is not None and in_one and not self._climb.is_settled:
            self._climb.record(len(images), seconds, (id(captioner), options.beam_size))
            self._log_if_settled(self._climb)
        return captions

    def _caption(
        self, captioner: "Captioner", images: Sequence[Pixels], options: DecodeOptions
    ) -> tuple[list[Caption], bool]:
        """Return the captions, and whether all images were captioned at once."""
        captions: list[Caption] = []
        in_one = True
        while len(captions) < len(images):
            part = images[len(captions) : len(captions) + (self.limit or len(images))]
            in_one = in_one and len(part) == len(images)
            try:
                captions += captioner.caption(part, options)
            except DeviceOutOfMemory:
                if len(part) == 1:
                    raise
                self._note_out_of_memory(len(part))
                continue
            self._successes += 1
            if self.limit is not None and self._successes % GROW_AFTER == 0:
                self.limit *= 2
        return captions, in_one

    def _note_out_of_memory(self, images: int) -> None:
        self.limit, self._successes = images // 2, 0
        log.warning("device_out_of_memory", images=images, new_limit=self.limit)
        if self._climb is not None and not self._climb.is_settled:
            self._climb.note_out_of_memory(images)
            self._log_if_settled(self._climb)

    def _log_if_settled(self, climb: BatchClimb) -> None:
        if climb.is_settled:
            rate = {"images_per_second": round(climb.rate)} if climb.rate else {}
            log.info("batch_size_settled", images=climb.size, **rate)
