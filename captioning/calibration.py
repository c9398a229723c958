"""From a model's own probabilities to a confidence that means what it says. Without torch: the store asks too."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioning.errors import BundleError


@dataclass(frozen=True)
class Curve:
    """A rising line through points: log-probability, in nats, to confidence, 0 to 1. Level beyond its ends."""

    log_probabilities: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()

    def at(self, log_probability: float) -> float:
        """Return the confidence; without points, the probability itself."""
        xs, ys = self.log_probabilities, self.confidences
        if not xs:
            return math.exp(min(0.0, log_probability))
        right = bisect_right(xs, log_probability)
        if right in (0, len(xs)):
            return ys[min(right, len(ys) - 1)]
        left = right - 1
        share = (log_probability - xs[left]) / (xs[right] - xs[left])
        return ys[left] + share * (ys[right] - ys[left])


@dataclass(frozen=True)
class Calibration:
    """What a bundle knows of its own reliability; an empty one takes the model at its word."""

    caption: Curve = Curve()
    word: Curve = Curve()

    def of_caption(self, word_log_probabilities: Sequence[float]) -> float:
        """Return the confidence of a caption from the log-probabilities of its words and end mark."""
        return round(self.caption.at(sum(word_log_probabilities) / max(1, len(word_log_probabilities))), 4)

    def of_words(self, text: str, word_log_probabilities: Sequence[float]) -> list[tuple[str, float]]:
        """Return each word of a caption with its confidence."""
        return [
            (w, round(self.word.at(logp), 4)) for w, logp in zip(text.split(), word_log_probabilities, strict=False)
        ]


def calibration_of(description: Mapping[str, Any]) -> Calibration:
    """Return the calibration that a bundle's description or card holds, an empty one if none. Raises BundleError."""
    described = description.get("calibration") or {}
    try:
        return Calibration(*(_curve(described[part]) if part in described else Curve() for part in ("caption", "word")))
    except (TypeError, ValueError, OverflowError) as wrong:
        name = description.get("name")
        raise BundleError(f"the calibration of model {name} makes no sense: {wrong}. Re-export it.") from wrong


def _curve(points: Sequence[Sequence[float]]) -> Curve:
    xs, ys = (tuple(map(float, side)) for side in points)
    rising = all(map(math.isfinite, xs)) and list(xs) == sorted(set(xs))
    if not xs or len(xs) != len(ys) or not rising or not all(0 <= y <= 1 for y in ys):
        raise ValueError("a curve is as many rising log-probabilities as confidences from 0 to 1")
    return Curve(xs, ys)
