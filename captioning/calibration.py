"""Calibration: curves that turn a model's log-probabilities into confidences that match how often it is right.

This module does not import torch, because the store uses it too.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioning.errors import BundleError


@dataclass(frozen=True)
class Curve:
    """A piecewise linear, rising map from log-probability (nats) to confidence (0 to 1), constant beyond its ends."""

    log_probabilities: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()

    def at(self, log_probability: float) -> float:
        """Return the confidence at a log-probability; a curve without points returns the probability itself."""
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
    """The curves of a bundle for whole captions and for single words. Empty curves leave probabilities as they are."""

    caption: Curve = Curve()
    word: Curve = Curve()

    def of_caption(self, word_log_probabilities: Sequence[float]) -> float:
        """Return a caption's confidence from the log-probabilities of its words and its end token."""
        return round(self.caption.at(sum(word_log_probabilities) / max(1, len(word_log_probabilities))), 4)

    def of_words(self, text: str, word_log_probabilities: Sequence[float]) -> list[tuple[str, float]]:
        """Return each word of a caption with its confidence."""
        return [
            (w, round(self.word.at(logp), 4)) for w, logp in zip(text.split(), word_log_probabilities, strict=False)
        ]


def calibration_of(description: Mapping[str, Any]) -> Calibration:
    """Return the calibration in a bundle's description or card, or an empty one. Raises BundleError if invalid."""
    described = description.get("calibration") or {}
    try:
        return Calibration(*(_curve(described[part]) if part in described else Curve() for part in ("caption", "word")))
    except (TypeError, ValueError, OverflowError) as error:
        name = description.get("name")
        raise BundleError(f"the calibration of model {name} is invalid: {error}. Export the model again.") from error


def _curve(points: Sequence[Sequence[float]]) -> Curve:
    xs, ys = (tuple(map(float, side)) for side in points)
    rising = all(map(math.isfinite, xs)) and list(xs) == sorted(set(xs))
    if not xs or len(xs) != len(ys) or not rising or not all(0 <= y <= 1 for y in ys):
        raise ValueError("a curve needs rising log-probabilities and as many confidences from 0 to 1")
    return Curve(xs, ys)
