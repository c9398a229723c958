"""Calibration: what turns a model's scores of a caption into a confidence that matches how often it is right.

This module does not import torch, because the store uses it too.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioning.errors import BundleError

EVIDENCE = ("log_probability", "named", "surest", "distance", "present")
"""What the confidence of a caption is computed from, in order; 0 where a model does not know it.

The mean log-probability of its words, in nats; the probability of the most probable concept that it names, and of the
most probable concept of the image, 0 to 1; the distance of the image from those that the model learned from; the
probability that the people and the dogs that it names are in the image.
"""


@dataclass(frozen=True)
class Curve:
    """A piecewise linear, rising map from a score to a confidence (0 to 1), constant beyond its ends.

    The score of a word is its log-probability in nats.
    """

    scores: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()

    def at(self, score: float) -> float:
        """Return the confidence at a score; a curve without points takes it for a log-probability."""
        xs, ys = self.scores, self.confidences
        if not xs:
            return math.exp(min(0.0, score))
        right = bisect_right(xs, score)
        if right in (0, len(xs)):
            return ys[min(right, len(ys) - 1)]
        left = right - 1
        share = (score - xs[left]) / (xs[right] - xs[left])
        return ys[left] + share * (ys[right] - ys[left])


@dataclass(frozen=True)
class Calibration:
    """The curves of a bundle for whole captions and for single words. Empty curves leave probabilities as they are.

    The score of a caption is the sum of its evidence, each part times its weight.
    """

    caption: Curve = Curve()
    word: Curve = Curve()
    weights: tuple[float, ...] = (1.0,)  # of EVIDENCE

    def of_caption(self, evidence: Sequence[float]) -> float:
        """Return a caption's confidence from its evidence, see EVIDENCE."""
        return round(self.caption.at(sum(w * x for w, x in zip(self.weights, evidence, strict=False))), 4)

    def of_words(self, text: str, word_log_probabilities: Sequence[float]) -> list[tuple[str, float]]:
        """Return each word of a caption with its confidence."""
        return [
            (w, round(self.word.at(logp), 4)) for w, logp in zip(text.split(), word_log_probabilities, strict=False)
        ]


def calibration_of(description: Mapping[str, Any]) -> Calibration:
    """Return the calibration in a bundle's description or card, or an empty one. Raises BundleError if invalid."""
    described = description.get("calibration") or {}
    try:
        caption, word = (_curve(described[part]) if part in described else Curve() for part in ("caption", "word"))
        return Calibration(caption, word, _weights(described.get("weights", [1.0])))
    except (TypeError, ValueError, OverflowError) as error:
        name = description.get("name")
        raise BundleError(f"the calibration of model {name} is invalid: {error}. Export the model again.") from error


def _weights(values: Sequence[float]) -> tuple[float, ...]:
    weights = tuple(map(float, values))
    if not 1 <= len(weights) <= len(EVIDENCE) or not all(map(math.isfinite, weights)):
        raise ValueError(f"weights are from 1 to {len(EVIDENCE)} numbers")
    return weights


def _curve(points: Sequence[Sequence[float]]) -> Curve:
    xs, ys = (tuple(map(float, side)) for side in points)
    rising = all(map(math.isfinite, xs)) and list(xs) == sorted(set(xs))
    if not xs or len(xs) != len(ys) or not rising or not all(0 <= y <= 1 for y in ys):
        raise ValueError("a curve needs rising scores and as many confidences from 0 to 1")
    return Curve(xs, ys)
