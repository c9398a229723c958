"""Calibration: what turns a model's scores of a caption into a confidence that matches how often it is right.

This module does not import torch, because the store uses it too.
"""

import math
import operator
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioning.errors import BundleError

EVIDENCE = ("log_probability", "named", "surest", "distance", "present", "people", "dogs")
"""What the confidence of a caption is computed from, in order; 0 where a model does not know it.

The mean log-probability of its words, in nats; the probability of the most probable concept that it names, and of the
most probable concept of the image, 0 to 1; the distance of the image from those that the model learned from; the
probability that the people and the dogs that it names are in the image, that people are, and that dogs are.
"""

_PROBABILITIES = {"named", "surest", "present", "people", "dogs"}
_SUREST = 0.99  # more certain probabilities count as this one


def expanded(evidence: Sequence[float]) -> list[float]:
    """Return what weights apply to: probabilities as log-odds, then the products of each two pieces of evidence.

    With the products, one piece can say how much another counts: the words' probability, for example, says less of an
    image that is far from the training images. Pieces that are missing at the end are 0.
    """
    complete = [*evidence, *[0.0] * (len(EVIDENCE) - len(evidence))]
    pieces = [_log_odds(x) if name in _PROBABILITIES else x for name, x in zip(EVIDENCE, complete, strict=True)]
    return pieces + [x * y for i, x in enumerate(pieces) for y in pieces[i:]]


def _log_odds(probability: float) -> float:
    p = min(max(probability, 1 - _SUREST), _SUREST)
    return math.log(p / (1 - p))


WEIGHTS = len(expanded([0.0] * len(EVIDENCE)))
"""How many weights a calibration has."""


_SURE = 0.5  # probability of a concept with which a far image is not unlike: the classifier knows many more things
_VERY_FAR = 1.7  # distance at which it is unlike all the same


def is_unlike(distance: float, surest: float = 0.0) -> bool:
    """Return whether an image is unlike the training images: far from them, and the classifier is not sure of it.

    `surest` is the probability of its most probable concept. A photograph of one thing that no training image shows is
    far and often well named; a page of text is far and nothing that the classifier knows.
    """
    return distance > (1 if surest < _SURE else _VERY_FAR)


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

    The score of a caption is the weighted sum of its expanded evidence; without weights it is the log-probability.
    """

    caption: Curve = Curve()
    word: Curve = Curve()
    weights: tuple[float, ...] = ()  # of `expanded`
    unlike: float = 1.0  # share of captions of unlike images that are right: no such caption is surer

    def of_caption(self, evidence: Sequence[float]) -> float:
        """Return a caption's confidence from its evidence, see EVIDENCE."""
        if not self.weights:
            return round(self.caption.at(evidence[0]), 4)
        score = sum(map(operator.mul, self.weights, expanded(evidence)))
        found = dict(zip(EVIDENCE, evidence, strict=False))
        is_limited = is_unlike(found.get("distance", 0.0), found.get("surest", 0.0))
        return round(min(self.caption.at(score), self.unlike if is_limited else 1.0), 4)

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
        return Calibration(caption, word, _weights(described.get("weights", [])), _limit(described.get("unlike", 1.0)))
    except (TypeError, ValueError, OverflowError) as error:
        name = description.get("name")
        raise BundleError(f"the calibration of model {name} is invalid: {error}. Export the model again.") from error


def _weights(values: Sequence[float]) -> tuple[float, ...]:
    weights = tuple(map(float, values))
    if len(weights) not in (0, WEIGHTS) or not all(map(math.isfinite, weights)):
        raise ValueError(f"weights are {WEIGHTS} numbers")
    return weights


def _limit(value: float) -> float:
    limit = float(value)
    if not 0 <= limit <= 1:
        raise ValueError("unlike is a share from 0 to 1")
    return limit


def _curve(points: Sequence[Sequence[float]]) -> Curve:
    xs, ys = (tuple(map(float, side)) for side in points)
    rising = all(map(math.isfinite, xs)) and list(xs) == sorted(set(xs))
    if not xs or len(xs) != len(ys) or not rising or not all(0 <= y <= 1 for y in ys):
        raise ValueError("a curve needs rising scores and as many confidences from 0 to 1")
    return Curve(xs, ys)
