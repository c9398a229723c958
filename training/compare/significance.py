"""Whether the difference between two ways of training is significant, over seeds and over images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_RESAMPLES = 10_000
_RESAMPLES_IN_MEMORY = 500  # at once: 40 MB for 5000 images

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Second minus first, in CIDEr-D, with 95 % confidence intervals."""

    mean: float
    over_seeds: Interval  # Welch's t-test: other seeds, the same images
    over_images: Interval  # paired bootstrap: the same runs, other images
    p_seeds: float
    first: str = "the LSTM"
    second: str = "the GRU"

    @property
    def verdict(self) -> str:
        """The better one, but only if both intervals exclude zero."""
        if all(low > 0 for low, _ in (self.over_seeds, self.over_images)):
            return f"{self.second} is better"
        if all(high < 0 for _, high in (self.over_seeds, self.over_images)):
            return f"{self.first} is better"
        return "there is no significant difference"

    @property
    def sentence(self) -> str:
        """The mean and both intervals as text."""
        (a, b), (c, d) = self.over_seeds, self.over_images
        return f"{self.mean:+.3f} (95 % interval {a:+.3f} to {b:+.3f} over seeds, {c:+.3f} to {d:+.3f} over images)"


def difference(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], *called: str) -> Difference:
    """Compare two groups of runs, each run given as the score of every image; there must be two images or more.

    `called` are the names of both, the LSTM and the GRU if none are given.

    The bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation") resamples images,
    each with its mean over seeds.
    """
    names = sorted(first[0])
    one, two = (np.array([[run[n] for n in names] for run in group]) for group in (first, second))  # (seeds, images)
    welch = stats.ttest_ind(two.mean(1), one.mean(1), equal_var=False)
    paired = two.mean(0) - one.mean(0)  # (images,)
    bootstrap = stats.bootstrap(
        (paired,), np.mean, n_resamples=_RESAMPLES, batch=_RESAMPLES_IN_MEMORY, method="percentile",
        rng=np.random.default_rng(1),
    )  # fmt: skip
    return Difference(
        round(float(paired.mean()), 4),
        _rounded(welch.confidence_interval()),
        _rounded(bootstrap.confidence_interval),
        round(float(welch.pvalue), 4),
        *called,
    )


def _rounded(interval: tuple[float, float]) -> Interval:
    low, high = interval
    return round(float(low), 4), round(float(high), 4)
