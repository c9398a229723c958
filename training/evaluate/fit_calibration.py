"""Fits what turns a model's scores into confidences, on captions of the val images.

A caption counts as correct when its CIDEr-D against the image's references is above 0.5 (on Flickr8k, the median of
one person's caption against the four others is about 0.6); of an image that is only labelled, when it names the label.
A word counts as correct when any reference contains it. Logistic regression weighs the evidence for a caption, which
gives its confidence (Platt 1999); isotonic regression (Zadrozny & Elkan 2002) maps the log-probability of a word to the
share that is correct. All kinds of images are fitted together; errors are shown of each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from captioning.calibration import EVIDENCE, WEIGHTS, Calibration, Curve, expanded, is_unlike
from captioning.values import Caption
from training.data.tokens import tokenize
from training.evaluate.metrics import cider_of_each

GOOD = 0.5  # CIDEr-D
_STRENGTH = 0.1  # inverse of the regularization of the weights: of 0.01 to 10, the least cross-validated errors
_KNOTS = 25  # of a calibration curve: few enough not to follow the noise of a thousand captions
_FOLDS = 5
_BINS = 10  # of a reliability curve
_RESAMPLES = 1000

Points = tuple[list[float], list[float]]  # scores, ascending -> shares
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
    fitted = _fit(list(kinds.values()))
    confidences = cross_validated_captions(kinds)
    return {
        "good": f"CIDEr-D above {GOOD}",
        "weights": list(fitted.weights),
        "caption": [list(fitted.caption.scores), list(fitted.caption.confidences)],
        "unlike": fitted.unlike,
        "word": _curve(words.log_probability, words.correct),
        "word_error": round(expected_calibration_error(cross_validated(words), words.correct), 4),
        "kinds": {name: _report(confidences[name], graded.correct) for name, graded in kinds.items()},
        "held_out": {
            name: _report(_confidences(graded.evidence, fitted), graded.correct)
            for name, graded in (held_out or {}).items()
        },
    }


def _confidences(evidence: Floats, fitted: Calibration) -> Floats:
    """Return the confidence of each row of evidence, as a captioner computes it."""
    return np.array([fitted.of_caption(row) for row in evidence.tolist()])


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
        fitted = _fit([GradedCaptions(g.evidence[folds[n] != k], g.correct[folds[n] != k]) for n, g in kinds.items()])
        for name, graded in kinds.items():
            held_out = folds[name] == k
            found[name][held_out] = _confidences(graded.evidence[held_out], fitted)
    return found


def _fit(kinds: Sequence[GradedCaptions]) -> Calibration:
    """Return the calibration of captions: weights, a curve, and a limit for unlike images.

    A kind counts as the square root of its size: a hundred images must not outweigh a thousand, nor vanish beside them.
    """
    evidence, correct = (np.concatenate(part) for part in zip(*kinds, strict=True))
    if not 0 < correct.mean() < 1:
        return Calibration(Curve((0.0,), (_share(correct),)), weights=(0.0,) * WEIGHTS)
    pieces = np.array([expanded(row) for row in evidence.tolist()])
    sizes = np.array([len(kind.correct) for kind in kinds], dtype=float)
    counts = np.repeat(sizes.sum() / np.sqrt(sizes).sum() / np.sqrt(sizes), sizes.astype(int))
    mean, spread = pieces.mean(0), pieces.std(0) + 1e-9
    model = LogisticRegression(C=_STRENGTH, max_iter=1000)
    model.fit((pieces - mean) / spread, correct, sample_weight=counts)
    weights = np.where(pieces.std(0) > 0, model.coef_[0] / spread, 0.0).round(6)
    offset = float(model.intercept_[0] - mean @ weights)
    unlike = np.array([_is_unlike(row) for row in evidence.tolist()])
    limit = _share(correct[unlike]) if unlike.any() else 1.0
    return Calibration(_sigmoid(offset), weights=tuple(weights.tolist()), unlike=limit)


def _is_unlike(evidence: Sequence[float]) -> bool:
    found = dict(zip(EVIDENCE, evidence, strict=False))
    return is_unlike(found.get("distance", 0.0), found.get("surest", 0.0))


def _share(correct: Floats) -> float:
    """Return the share that is correct, with half a correct and half a wrong entry added."""
    return round(float((correct.sum() + 0.5) / (len(correct) + 1)), 4)


def _sigmoid(offset: float) -> Curve:
    """Return the logistic function of score + offset as a curve."""
    at = np.linspace(-6, 6, 49)
    scores, shares = (at - offset).round(4), 1 / (1 + np.exp(-at))
    return Curve(tuple(scores.tolist()), tuple(shares.round(4).tolist()))


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


def _curve(x: Floats, y: Floats) -> Points:
    """Fit a non-decreasing curve through the means of bins of equal size.

    Half a correct and half a wrong entry are added to each bin, so that no share is exactly 0 or 1.
    """
    if not len(x):
        return [0.0], [0.5]  # no data
    parts = _equal_parts(x, min(_KNOTS, max(1, len(x) // 20)))
    centres, knot = np.unique([x[p].mean().round(4) for p in parts], return_inverse=True)
    sizes = np.bincount(knot, [len(p) for p in parts])  # equal means are one knot
    shares = (np.bincount(knot, [y[p].sum() for p in parts]) + 0.5) / (sizes + 1)
    fitted = IsotonicRegression().fit_transform(centres, shares, sample_weight=sizes)
    return [float(c) for c in centres], [round(float(s), 4) for s in fitted]
