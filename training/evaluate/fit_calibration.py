"""How sure a model may be: its own probabilities, set against what people wrote of the val images.

A caption counts as good when its CIDEr-D against the image's references is above 0.5 (the median of a person's
against the other four on Flickr8k is about 0.6); a word counts as right when any reference has it. Isotonic
regression (Zadrozny & Elkan 2002) makes shares of the model's mean and single log-probabilities.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from captioning.calibration import Calibration
from captioning.values import Caption
from training.data.tokens import words_of
from training.evaluate.metrics import cider_of_each

GOOD = 0.5  # CIDEr-D
_KNOTS = 25  # of a calibration curve: coarse enough not to follow the noise of a thousand captions
_FOLDS = 5
Curve = tuple[list[float], list[float]]  # log-probability in nats, ascending -> share
Floats = NDArray[np.float64]
Whose = NDArray[np.int64]


def calibrate(said: Mapping[str, Caption], references: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what a bundle carries: `caption` and `word` curves, and how far off they are on unseen folds."""
    (caption_x, caption_y, _), (word_x, word_y, whose) = judged(said, references)
    return {
        "good": f"CIDEr-D above {GOOD}",
        "caption": _curve(caption_x, caption_y),
        "word": _curve(word_x, word_y),
        "caption_error": round(expected_error(folded(caption_x, caption_y), caption_y), 4),
        "word_error": round(expected_error(folded(word_x, word_y, whose), word_y), 4),
    }


def reliability(
    said: Mapping[str, Caption], references: Mapping[str, Sequence[str]], calibration: Calibration
) -> dict[str, float]:
    """Return how far off the confidences that a model gives are, on images it was perhaps not calibrated on."""
    (_, caption_y, _), (word_x, word_y, _) = judged(said, references)
    words = np.array([calibration.word.at(x) for x in word_x])
    captions = np.array([caption.confidence for caption in said.values()])
    return {
        "caption_error": round(expected_error(captions, caption_y), 4),
        "word_error": round(expected_error(words, word_y), 4),
        "captions_good": round(float(caption_y.mean()), 4),
        "words_right": round(float(word_y.mean()), 4),
    }


def judged(
    said: Mapping[str, Caption], references: Mapping[str, Sequence[str]]
) -> tuple[tuple[Floats, Floats, Whose], tuple[Floats, Floats, Whose]]:
    """Return, of captions and of their words, log-probabilities, whether each was good (0 or 1), and its image."""
    ciders = cider_of_each({name: caption.text for name, caption in said.items()}, references)
    names = list(said)
    caption_x = np.array([said[n].mean_log_probability for n in names])
    caption_y = np.array([float(ciders[n] > GOOD) for n in names])
    words = [
        (logp, word in written, i)
        for i, n in enumerate(names)
        for written in [{w for text in references[n] for w in words_of(text)}]
        for word, logp in zip(said[n].text.split(), said[n].word_log_probabilities, strict=False)
    ]
    word_x, word_y = np.array([x for x, _, _ in words]), np.array([float(y) for _, y, _ in words])
    return (caption_x, caption_y, np.arange(len(names))), (word_x, word_y, np.array([i for _, _, i in words]))


def folded(x: Floats, y: Floats, whose: Whose | None = None) -> Floats:
    """Return a confidence for each, by a curve that was made without its fold; an image is in one fold."""
    fold = (np.arange(len(x)) if whose is None else whose) % _FOLDS
    found = np.zeros(len(x))
    for k in range(_FOLDS):
        if (fold == k).any():
            found[fold == k] = np.interp(x[fold == k], *_curve(x[fold != k], y[fold != k]))
    return found


def expected_error(confidence: Floats, good: Floats, bins: int = 10) -> float:
    """Return the expected calibration error (Naeini et al. 2015): |confidence - share good|, mean over bins."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
    return float(sum(len(p) * abs(confidence[p].mean() - good[p].mean()) for p in parts) / len(confidence))


def _curve(x: Floats, y: Floats) -> Curve:
    """Fit a rising curve through means of equally many points each; its ends are pulled off 0 and 1 by a half count."""
    if not len(x):
        return [0.0], [0.5]  # nothing is known
    parts = np.array_split(np.argsort(x, kind="stable"), min(_KNOTS, max(1, len(x) // 20)))
    centres, which = np.unique([x[p].mean().round(4) for p in parts], return_inverse=True)  # equal ones are one knot
    counts = np.bincount(which, [len(p) for p in parts])
    shares = (np.bincount(which, [y[p].sum() for p in parts]) + 0.5) / (counts + 1)
    risen = IsotonicRegression().fit_transform(centres, shares, sample_weight=counts)
    return [float(c) for c in centres], [round(float(s), 4) for s in risen]
