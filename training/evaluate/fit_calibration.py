"""Fits the curves from a model's log-probabilities to confidences, on captions of the val images.

A caption counts as correct when its CIDEr-D against the image's references is above 0.5 (on Flickr8k, the median of
one person's caption against the four others is about 0.6). A word counts as correct when any reference contains it.
Isotonic regression (Zadrozny & Elkan 2002) maps the mean log-probability of a caption, or the log-probability of a
word, to the share that is correct.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from captioning.calibration import Calibration
from captioning.values import Caption
from training.data.tokens import tokenize
from training.evaluate.metrics import cider_of_each

GOOD = 0.5  # CIDEr-D
_KNOTS = 25  # of a calibration curve: few enough not to follow the noise of a thousand captions
_FOLDS = 5
_BINS = 10  # of a reliability curve

Curve = tuple[list[float], list[float]]  # log-probabilities in nats, ascending -> shares
Floats = NDArray[np.float64]


class Graded(NamedTuple):
    """Captions, or words of captions, with whether each is correct."""

    log_probability: Floats  # in nats; of a caption, the mean over its words
    correct: Floats  # 0 or 1
    image_index: NDArray[np.int64]


class ReliabilityBin(NamedTuple):
    """Entries of similar confidence."""

    size: int
    confidence: float  # mean
    correct: float  # share


def calibrate(captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the calibration of a bundle: curves of captions and of words, and their cross-validated errors."""
    of_captions, of_words = grade(captions, references)
    return {
        "good": f"CIDEr-D above {GOOD}",
        "caption": _curve(of_captions.log_probability, of_captions.correct),
        "word": _curve(of_words.log_probability, of_words.correct),
        "caption_error": round(expected_calibration_error(cross_validated(of_captions), of_captions.correct), 4),
        "word_error": round(expected_calibration_error(cross_validated(of_words), of_words.correct), 4),
    }


def reliability(
    captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]], calibration: Calibration
) -> dict[str, float]:
    """Return the calibration error of a model's confidences on these images, and the shares that are correct."""
    of_captions, of_words = grade(captions, references)
    caption_confidence = np.array([caption.confidence for caption in captions.values()])
    word_confidence = np.array([calibration.word.at(x) for x in of_words.log_probability])
    return {
        "caption_error": round(expected_calibration_error(caption_confidence, of_captions.correct), 4),
        "word_error": round(expected_calibration_error(word_confidence, of_words.correct), 4),
        "captions_good": round(float(of_captions.correct.mean()), 4),
        "words_right": round(float(of_words.correct.mean()), 4),
    }


def grade(captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]]) -> tuple[Graded, Graded]:
    """Return the captions and the words of all captions, each with whether it is correct."""
    ciders = cider_of_each({name: caption.text for name, caption in captions.items()}, references)
    names = list(captions)
    words = [
        (log_probability, word in reference_words, i)
        for i, name in enumerate(names)
        for reference_words in [{word for text in references[name] for word in tokenize(text)}]
        for word, log_probability in zip(
            captions[name].text.split(), captions[name].word_log_probabilities, strict=False
        )
    ]
    of_captions = Graded(
        np.array([captions[name].mean_log_probability for name in names]),
        np.array([float(ciders[name] > GOOD) for name in names]),
        np.arange(len(names)),
    )
    of_words = Graded(
        np.array([x for x, _, _ in words]),
        np.array([float(correct) for _, correct, _ in words]),
        np.array([i for _, _, i in words]),
    )
    return of_captions, of_words


def cross_validated(graded: Graded) -> Floats:
    """Return a confidence for each entry, from a curve fitted without its fold. All words of an image share a fold."""
    x, y, image_index = graded
    fold = image_index % _FOLDS
    confidence = np.zeros(len(x))
    for k in range(_FOLDS):
        if (fold == k).any():
            confidence[fold == k] = np.interp(x[fold == k], *_curve(x[fold != k], y[fold != k]))
    return confidence


def reliability_bins(confidence: Floats, correct: Floats) -> list[ReliabilityBin]:
    """Divide entries into bins of equal size, by rising confidence."""
    return [
        ReliabilityBin(len(part), float(confidence[part].mean()), float(correct[part].mean()))
        for part in _equal_parts(confidence, min(_BINS, len(confidence)))
    ]


def expected_calibration_error(confidence: Floats, correct: Floats) -> float:
    """Return the mean of |confidence - share correct| over bins of equal size (Naeini et al. 2015)."""
    bins = reliability_bins(confidence, correct)
    return sum(b.size * abs(b.confidence - b.correct) for b in bins) / len(confidence)


def _equal_parts(x: Floats, count: int) -> list[NDArray[np.int64]]:
    """Return the indices of `x` in `count` parts of equal size, by rising value."""
    return np.array_split(np.argsort(x, kind="stable"), count)


def _curve(x: Floats, y: Floats) -> Curve:
    """Fit a non-decreasing curve through the means of bins of equal size.

    Half a correct and half a wrong entry are added to each bin, so that no share is exactly 0 or 1.
    """
    if not len(x):
        return [0.0], [0.5]  # no data
    parts = _equal_parts(x, min(_KNOTS, max(1, len(x) // 20)))
    centres, knot = np.unique([x[p].mean().round(4) for p in parts], return_inverse=True)  # equal means are one knot
    counts = np.bincount(knot, [len(p) for p in parts])
    shares = (np.bincount(knot, [y[p].sum() for p in parts]) + 0.5) / (counts + 1)
    fitted = IsotonicRegression().fit_transform(centres, shares, sample_weight=counts)
    return [float(c) for c in centres], [round(float(s), 4) for s in fitted]
