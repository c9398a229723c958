"""Fits what turns a model's scores into confidences, on captions of the val images.

A caption counts as correct when its CIDEr-D against the image's references is above 0.5 (on Flickr8k, the median of
one person's caption against the four others is about 0.6); of an image that is only labelled, when it names the label.
A word counts as correct when any reference contains it. Logistic regression weighs the evidence for a caption, and
isotonic regression (Zadrozny & Elkan 2002) maps the score, or the log-probability of a word, to the share that is
correct. All kinds of images are fitted together and count alike; errors are shown of each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from captioning.calibration import Calibration
from captioning.values import Caption
from training.data.tokens import tokenize
from training.evaluate.metrics import cider_of_each

GOOD = 0.5  # CIDEr-D
_KNOTS = 25  # of a calibration curve: few enough not to follow the noise of a thousand captions
_FOLDS = 5
_BINS = 10  # of a reliability curve
_RESAMPLES = 1000

Curve = tuple[list[float], list[float]]  # scores, ascending -> shares
Floats = NDArray[np.float64]


class Graded(NamedTuple):
    """Words of captions, with whether each is correct."""

    log_probability: Floats  # in nats
    correct: Floats  # 0 or 1
    image_index: NDArray[np.int64]


class GradedCaptions(NamedTuple):
    """Captions of one kind of images, with whether each is correct."""

    evidence: Floats  # (captions, parts) see captioning.calibration.EVIDENCE
    correct: Floats  # 0 or 1


class ReliabilityBin(NamedTuple):
    """Entries of similar confidence."""

    size: int
    confidence: float  # mean
    correct: float  # share


def calibrate(
    kinds: Mapping[str, GradedCaptions], words: Graded, held_out: Mapping[str, GradedCaptions] | None = None
) -> dict[str, Any]:
    """Return the calibration of a bundle: weights and curves, and its errors for each kind of images.

    The errors of `kinds` are cross-validated; `held_out` are captions that only report one.
    """
    weights, curve = _fit(list(kinds.values()))
    confidences = cross_validated_captions(kinds)
    return {
        "good": f"CIDEr-D above {GOOD}",
        "weights": weights,
        "caption": curve,
        "word": _curve(words.log_probability, words.correct),
        "word_error": round(expected_calibration_error(cross_validated(words), words.correct), 4),
        "kinds": {name: _report(confidences[name], graded.correct) for name, graded in kinds.items()},
        "held_out": {
            name: _report(np.interp(graded.evidence @ weights, *curve), graded.correct)
            for name, graded in (held_out or {}).items()
        },
    }


def _report(confidence: Floats, correct: Floats) -> dict[str, Any]:
    """Return the errors, and for a plot the size, the mean confidence and the share correct of each bin."""
    bins = [[b.size, round(b.confidence, 4), round(b.correct, 4)] for b in reliability_bins(confidence, correct)]
    return errors(confidence, correct) | {"bins": bins}


def errors(confidence: Floats, correct: Floats) -> dict[str, Any]:
    """Return the expected calibration error with its 95 % interval, the Brier score, and the share that is correct."""
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, len(correct), len(correct)) for _ in range(_RESAMPLES))
    resampled = [expected_calibration_error(confidence[rows], correct[rows]) for rows in drawn]
    return {
        "error": round(expected_calibration_error(confidence, correct), 4),
        "error_interval": [round(float(x), 4) for x in np.percentile(resampled, [2.5, 97.5])],
        "brier": round(float(np.mean((confidence - correct) ** 2)), 4),
        "correct": round(float(correct.mean()), 4),
        "confidence": round(float(confidence.mean()), 4),
        "images": len(correct),
    }


def reliability(
    captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]], calibration: Calibration
) -> dict[str, Any]:
    """Return the calibration errors of a model's confidences on these images, and the shares that are correct."""
    of_captions, of_words = grade(captions, references), grade_words(captions, references)
    word_confidence = np.array([calibration.word.at(x) for x in of_words.log_probability])
    return {
        "captions": errors(confidences_of(captions), of_captions.correct),
        "word_error": round(expected_calibration_error(word_confidence, of_words.correct), 4),
        "words_right": round(float(of_words.correct.mean()), 4),
    }


def confidences_of(captions: Mapping[str, Caption]) -> Floats:
    """Return the confidence of each caption."""
    return np.array([caption.confidence for caption in captions.values()])


def grade(captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]]) -> GradedCaptions:
    """Return the captions of images with references: correct if their CIDEr-D is high enough."""
    ciders = cider_of_each({name: caption.text for name, caption in captions.items()}, references)
    return graded(captions, {name: cider > GOOD for name, cider in ciders.items()})


def graded(captions: Mapping[str, Caption], correct: Mapping[str, bool]) -> GradedCaptions:
    """Return the captions with their evidence, and whether they are correct."""
    return GradedCaptions(
        np.array([caption.evidence for caption in captions.values()]),
        np.array([float(correct[name]) for name in captions]),
    )


def grade_words(captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]]) -> Graded:
    """Return the words of all captions: correct if a reference of the image has them."""
    words = [
        (log_probability, word in reference_words, i)
        for i, (name, caption) in enumerate(captions.items())
        for reference_words in [{word for text in references[name] for word in tokenize(text)}]
        for word, log_probability in zip(caption.text.split(), caption.word_log_probabilities, strict=False)
    ]
    return Graded(
        np.array([x for x, _, _ in words]),
        np.array([float(correct) for _, correct, _ in words]),
        np.array([i for _, _, i in words]),
    )


def cross_validated_captions(kinds: Mapping[str, GradedCaptions]) -> dict[str, Floats]:
    """Return a confidence for each caption, from a fit without its fold, which has a part of each kind."""
    folds = {name: np.arange(len(graded.correct)) % _FOLDS for name, graded in kinds.items()}
    found = {name: np.zeros(len(graded.correct)) for name, graded in kinds.items()}
    for k in range(_FOLDS):
        weights, curve = _fit(
            [GradedCaptions(g.evidence[folds[n] != k], g.correct[folds[n] != k]) for n, g in kinds.items()]
        )
        for name, graded in kinds.items():
            held_out = folds[name] == k
            found[name][held_out] = np.interp(graded.evidence[held_out] @ weights, *curve)
    return found


def _fit(kinds: Sequence[GradedCaptions]) -> tuple[list[float], Curve]:
    """Return the weights of the evidence and the curve from scores to confidences. All kinds count alike."""
    evidence, correct = (np.concatenate(part) for part in zip(*kinds, strict=True))
    sizes = np.array([len(kind.correct) for kind in kinds])
    counts = np.repeat(sizes.sum() / sizes / len(sizes), sizes)
    weights = np.eye(1, evidence.shape[1])[0]  # the log-probability alone
    if 0 < correct.mean() < 1:
        spread = evidence.std(0) + 1e-9
        weights = LogisticRegression().fit(evidence / spread, correct, sample_weight=counts).coef_[0] / spread
    weights = weights.round(5)
    return weights.tolist(), _curve(evidence @ weights, correct, counts)


def cross_validated(words: Graded) -> Floats:
    """Return a confidence for each word, from a curve fitted without its fold. All words of an image share a fold."""
    x, y, image_index = words
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


def _curve(x: Floats, y: Floats, counts: Floats | None = None) -> Curve:
    """Fit a non-decreasing curve through the means of bins of equal size; `counts` are the weights of the entries.

    Half a correct and half a wrong entry are added to each bin, so that no share is exactly 0 or 1.
    """
    if not len(x):
        return [0.0], [0.5]  # no data
    n = np.ones(len(x)) if counts is None else counts
    parts = _equal_parts(x, min(_KNOTS, max(1, len(x) // 20)))
    centres, knot = np.unique([np.average(x[p], weights=n[p]).round(4) for p in parts], return_inverse=True)
    sums = np.bincount(knot, [n[p].sum() for p in parts])  # equal means are one knot
    shares = (np.bincount(knot, [(n[p] * y[p]).sum() for p in parts]) + 0.5) / (sums + 1)
    fitted = IsotonicRegression().fit_transform(centres, shares, sample_weight=sums)
    return [float(c) for c in centres], [round(float(s), 4) for s in fitted]
