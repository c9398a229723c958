"""Scores of captions of several data sets: of each, with the uncertainty of CIDEr-D, and means over all images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from training.evaluate.metrics import cider_of_each, score

_RESAMPLES = 2000

Texts = Mapping[str, str]  # captions by image
References = Mapping[str, Sequence[str]]


def score_sets(
    captions: Mapping[str, Texts],
    references: References,
    scores_of: Callable[[Texts, References], dict[str, float]] = score,
) -> dict[str, Any]:
    """Return the scores of captions, given by data set and image: means over all images, and those of each in `sets`.

    A single data set has no `sets`. CIDEr-D takes its document frequencies from each set alone, so that the score of a
    set does not depend on the others.
    """
    sets = {name: _with_counts(scores_of(texts, references), texts) for name, texts in captions.items()}
    if len(sets) == 1:
        return next(iter(sets.values()))
    images = sum(scores["images"] for scores in sets.values())
    shared = [key for key in next(iter(sets.values())) if all(key in scores for scores in sets.values())]
    numbers = [key for key in shared if isinstance(next(iter(sets.values()))[key], float)]
    means = {key: round(sum(s[key] * s["images"] for s in sets.values()) / images, 4) for key in numbers}
    return _with_counts(means, merged(captions)) | {"sets": sets}


def merged(captions: Mapping[str, Texts]) -> dict[str, str]:
    """Return captions by image, of captions by data set and image."""
    return {name: text for texts in captions.values() for name, text in texts.items()}


def cider_interval(texts: Texts, references: References) -> tuple[float, float]:
    """Return the 95 % confidence interval of CIDEr-D over images: the percentile bootstrap (Efron 1979)."""
    each = np.array(list(cider_of_each(texts, references).values()))
    if len(each) < 2:
        return float(each.mean()), float(each.mean())
    found = bootstrap((each,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return round(float(found.confidence_interval.low), 4), round(float(found.confidence_interval.high), 4)


def _with_counts(scores: Mapping[str, float], texts: Texts) -> dict[str, Any]:
    words = {word for text in texts.values() for word in text.split()}
    return {**scores, "distinct": len(set(texts.values())), "words_used": len(words), "images": len(texts)}
