"""The naming rate: how many captions name the object that an image is labelled with, or an everyday kind of it.

A folder has `Images/` and `words.json`: {file name: {"class": ImageNet's index, "words": [what answers it]}}. The rate
is a measure of captions of other images than those of the training data. It counts only for captions of usual length:
a list of words is not a caption.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from captioning.errors import UsageError
from training.data.tokens import tokenize

IMAGES, WORDS = "Images", "words.json"
_DOGS = range(151, 269)  # ImageNet's breeds, which other data sets teach anyway
_RESAMPLES = 2000


@dataclass(frozen=True)
class Named:
    """What an image is labelled with."""

    words: tuple[str, ...]  # words or phrases, any of which names it
    is_dog: bool


def read_naming(folder: Path) -> dict[str, Named]:
    """Return the labels by file name. Raises UsageError when the folder has no readable `words.json`."""
    try:
        found = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        return {name: Named(tuple(entry["words"]), entry["class"] in _DOGS) for name, entry in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"cannot read the labels of {folder}: {WORDS}: {error!r}.") from error


def named(captions: Mapping[str, str], labels: Mapping[str, Named]) -> dict[str, bool]:
    """Return whether each labelled image is named by its caption."""
    words = {name: f" {' '.join(tokenize(captions.get(name, '')))} " for name in labels}
    return {name: any(f" {word} " in words[name] for word in label.words) for name, label in labels.items()}


def halves(labels: Mapping[str, Named]) -> tuple[dict[str, Named], dict[str, Named]]:
    """Return every second label, to choose and to calibrate on, and the others, to report."""
    names = sorted(labels)
    first, second = names[::2], names[1::2]
    return {name: labels[name] for name in first}, {name: labels[name] for name in second}


def naming_rates(captions: Mapping[str, str], labels: Mapping[str, Named]) -> dict[str, Any]:
    """Return the shares of images that are named: of all and of those that show no dog, with 95 % intervals.

    An image without a caption counts as not named. `length` is the mean number of words.
    """
    hits = named(captions, labels)
    others = [hit for name, hit in hits.items() if not labels[name].is_dog]
    lengths = [len(tokenize(caption)) for name in labels if (caption := captions.get(name))]
    return {
        "named": round(float(np.mean(list(hits.values()))), 4),
        "named_interval": _interval(list(hits.values())),
        "without_dogs": round(float(np.mean(others)), 4) if others else 0.0,
        "without_dogs_interval": _interval(others),
        "length": round(float(np.mean(lengths)), 1) if lengths else 0.0,
        "images": len(labels),
    }


def _interval(hits: list[bool]) -> list[float]:
    """Return the percentile bootstrap interval of a share (Efron 1979)."""
    each = np.array(hits, dtype=float)
    if len(each) < 2 or each.min() == each.max():
        return [float(each.mean())] * 2 if len(each) else [0.0, 0.0]
    found = bootstrap((each,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return [round(float(x), 4) for x in found.confidence_interval]
