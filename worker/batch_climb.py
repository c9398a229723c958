"""Finds how many images at once a device is fastest with: by trying twice as many, in turns with as many as before."""

from collections.abc import Hashable
from statistics import median

GAIN = 1.03  # twice as many images are worth it when they raise the rate by this factor
PAIRS = 5  # of batches that are compared: one of each size, in turns, since other programs use the machine too
MAX_SECONDS = 0.5  # that a batch may take; a stop and the first captions wait for one


class BatchClimb:
    """Doubles the size of batches, a power of two, while the rate rises. Then it is settled."""

    def __init__(self, start: int, most: int, max_seconds: float = MAX_SECONDS) -> None:
        """`most` is the largest size that is tried, `max_seconds` what a batch of a larger size than `start` may take.

        Both sizes are powers of two.
        """
        self.size = start  # the best that is known
        self.rate = 0.0  # images/s with it; 0 while none was measured
        self._most, self._max_seconds = most, max_seconds
        self._is_settled = 2 * start > most
        self._same: Hashable = None  # what the batches that are compared have in common
        self._seconds: list[float] = []  # of the batches at this height, in the order of `_turns`

    @property
    def is_settled(self) -> bool:
        return self._is_settled

    @property
    def wanted(self) -> int:
        """How many images the next batch should have."""
        return self.size if self._is_settled else self._turns[len(self._seconds)]

    @property
    def largest(self) -> int:
        """The most images that a batch may have soon."""
        return self.size if self._is_settled else 2 * self.size

    @property
    def _turns(self) -> list[int]:
        """Sizes of the batches that are measured. The first one of each size does not count: it allocates memory."""
        low, high = self.size, 2 * self.size
        return [low, low, high, *[low, high] * PAIRS]

    def record(self, images: int, seconds: float, same: Hashable = None) -> None:
        """Note what a batch took. One that has not the wanted size says nothing.

        Batches are compared only while `same` is the same, for example the model.
        """
        if self._is_settled or images != self.wanted or seconds <= 0:
            return
        if same != self._same:
            self._same, self._seconds = same, []
            if images != self.wanted:
                return
        self._seconds.append(seconds)
        if len(self._seconds) == 2:
            fastest = min(self._seconds)
            self.rate = self.size / fastest
            self._is_settled = 2 * fastest > self._max_seconds
        elif len(self._seconds) == len(self._turns):
            self._decide()

    def note_out_of_memory(self, images: int) -> None:
        """Settle below a number of images for which the device has no memory."""
        while self.size >= max(2, images):
            self.size //= 2
        self._is_settled = True

    def _decide(self) -> None:
        """Double the size or settle, by the median of the pairs."""
        low, high = self._seconds[3::2], self._seconds[4::2]
        gain = median(2 * of_low / of_high for of_low, of_high in zip(low, high, strict=True))
        self._seconds = []
        if gain > GAIN and 2 * self.size <= self._most:
            self.size *= 2
            self.rate = self.size / median(high)
            self._is_settled = 2 * self.size > self._most
        else:
            self.rate = self.size / median(low)
            self._is_settled = True
