"""Is a difference between two ways of training more than luck? Luck of seeds, and luck of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_RESAMPLINGS = 10_000


@dataclass(frozen=True)
class Difference:
    """Second minus first, in CIDEr-D; intervals of 95 %."""

    mean: float
    over_seeds: tuple[float, float]  # Welch's t over seeds: other trainings, the same images
    over_images: tuple[float, float]  # paired bootstrap over images: the same trainings, other images
    p_seeds: float

    @property
    def verdict(self) -> str:
        """What may be said: a winner only where both kinds of luck are ruled out."""
        if all(low > 0 for low, _ in (self.over_seeds, self.over_images)):
            return "the GRU is better"
        if all(high < 0 for _, high in (self.over_seeds, self.over_images)):
            return "the LSTM is better"
        return "no difference can be told from luck"

    @property
    def sentence(self) -> str:
        """The figures, for people."""
        (a, b), (c, d) = self.over_seeds, self.over_images
        return f"{self.mean:+.3f} (95 % interval {a:+.3f} to {b:+.3f} over seeds, {c:+.3f} to {d:+.3f} over images)"


def difference(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> Difference:
    """Compare two groups of trainings, each given as the score of every image.

    The bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation") resamples images
    and takes the mean over seeds of each.
    """
    names = sorted(first[0])
    one, two = (np.array([[run[n] for n in names] for run in group]) for group in (first, second))  # (seeds, images)
    seeds = stats.ttest_ind(two.mean(1), one.mean(1), equal_var=False)
    interval = seeds.confidence_interval()
    paired = two.mean(0) - one.mean(0)
    chance = np.random.default_rng(1)
    picks = chance.integers(0, len(names), (_RESAMPLINGS, len(names)), dtype=np.int32)
    low, high = np.quantile(paired[picks].mean(1), [0.025, 0.975])
    return Difference(
        round(float(paired.mean()), 4),
        (round(float(interval.low), 4), round(float(interval.high), 4)),
        (round(float(low), 4), round(float(high), 4)),
        round(float(seeds.pvalue), 4),
    )
