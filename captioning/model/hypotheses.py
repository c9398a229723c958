"""What a search found, as texts: ids and log-probabilities of a whole batch at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioning.model.beam import BeamResult
from captioning.model.vocabulary import Vocabulary

_DIGITS = 4  # of a log-probability


class Hypothesis(NamedTuple):
    """A caption that a search found."""

    text: str
    log_probabilities: tuple[float, ...]  # nats of each word and of the end

    @property
    def log_probability(self) -> float:
        """Nats of all words and of the end."""
        return sum(self.log_probabilities)

    @property
    def mean_log_probability(self) -> float:
        """Nats a word, the end counted as one."""
        return self.log_probability / max(1, len(self.log_probabilities))


def hypotheses_of(found: BeamResult, vocabulary: Vocabulary) -> list[list[Hypothesis]]:
    """Return the captions of each image, the best first, even if nothing is possible, then the others that are."""
    wanted = (found.scores > float("-inf")).cpu().numpy()
    wanted[:, 0] = True
    words = found.words.cpu().numpy()[wanted].tolist()
    log_probabilities = _rounded(found.log_probabilities.cpu().numpy()[wanted])
    texts = [_hypothesis(vocabulary, *row) for row in zip(words, log_probabilities, strict=True)]
    ends = np.cumsum(wanted.sum(1)).tolist()
    return [texts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _hypothesis(vocabulary: Vocabulary, ids: list[int], log_probabilities: list[float]) -> Hypothesis:
    text = vocabulary.decode(ids)
    return Hypothesis(" ".join(text), tuple(log_probabilities[: len(text) + 1]))


def _rounded(numbers: NDArray[np.float32]) -> list[list[float]]:
    """Return numbers as `round` rounds each of them: a float32 times 10,000 is exact in float64."""
    scale = 10**_DIGITS
    rounded: list[list[float]] = (np.rint(numbers.astype(np.float64) * scale) / scale).tolist()
    return rounded
