"""Self-critical sequence training (SCST): captions are sampled, and those that beat the others become more likely.

Rennie et al. 2017 (arXiv:1612.00563), with the mean of an image's other samples as the baseline (Luo 2020,
arXiv:2003.09971). The reward is CIDEr-D with the document frequencies of the training captions. The end token counts
as a word of it: otherwise captions learn to stop in the middle (SacreEOS, arXiv:2305.12254).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captioning.model.decoder import CaptionDecoder
from captioning.model.vocabulary import END, PAD, START, Vocabulary
from training.data.tokens import repeated
from training.fit.network import mask_special_tokens

_ORDERS = 4
_SIGMA = 6.0  # of the length penalty, in words
_END = "<end>"
Ngram = tuple[str, ...]


class Sampled(NamedTuple):
    """A sampled caption."""

    name: str  # of its image
    words: list[str]
    ended: bool  # not cut before its end


class CiderReward:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726) of captions of training images, from 0 to 10.

    Written by hand because the reference scorer has no end token, and computes the references' vectors again for each
    call: here a call comes with every training step. With `end` the end token is a word, as training needs it; without,
    this is the published measure. `repeat_penalty` is subtracted for each content word that a caption says again.
    """

    def __init__(
        self, references: Mapping[str, Sequence[Sequence[str]]], *, end: bool = True, repeat_penalty: float = 0.0
    ) -> None:
        self._penalty = repeat_penalty
        self._end = [_END] if end else []
        ngrams = {name: [_ngrams([*words, *self._end]) for words in captions] for name, captions in references.items()}
        self._frequency: Counter[Ngram] = Counter()  # number of images with the n-gram in a reference
        for captions in ngrams.values():
            self._frequency.update(set().union(*captions))
        self._log_images = math.log(len(ngrams))
        self._references = {name: [self._vectors(c) for c in captions] for name, captions in ngrams.items()}

    def of(self, name: str, words: Sequence[str], *, ended: bool = True) -> float:
        """Return the reward of a caption of the image `name`. One that was cut before its end gets no end token."""
        vectors, norms, length = self._vectors(_ngrams([*words, *self._end] if ended else words))
        references = self._references[name]
        total = 0.0
        for other_vectors, other_norms, other_length in references:
            penalty = math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2))
            for order in range(_ORDERS):
                other, norm = other_vectors[order], norms[order] * other_norms[order]
                product = sum(min(w, other[g]) * other[g] for g, w in vectors[order].items() if g in other)
                total += penalty * product / norm if norm else 0.0
        penalty = self._penalty * repeated(words) if self._penalty else 0.0
        return 10 * total / (_ORDERS * len(references)) - penalty

    def _vectors(self, counts: Mapping[Ngram, int]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        """Return the tf-idf vectors by order, their norms, and the length in bigrams, as the reference scorer does."""
        vectors: list[dict[Ngram, float]] = [{} for _ in range(_ORDERS)]
        for ngram, count in counts.items():
            idf = self._log_images - math.log(max(1, self._frequency[ngram]))
            vectors[len(ngram) - 1][ngram] = count * idf
        norms = [math.sqrt(sum(w * w for w in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))


def sample(decoder: CaptionDecoder, grid: Tensor, count: int, max_length: int, temperature: float = 1.0) -> Tensor:
    """Sample `count` captions for each image: (B, N, F) -> ids (B x count, T), START first, PAD after END."""
    memory, state = decoder.start(grid)
    state = tuple(s.repeat_interleave(count, 1) for s in state)
    last = torch.full((grid.size(0) * count,), START, device=grid.device)
    words = [last]
    for _ in range(max_length + 1):
        logp, state = decoder.step(last, state, memory)
        ended = (last == END) | (last == PAD)
        probabilities = torch.softmax(mask_special_tokens(logp) / temperature, -1)
        last = torch.multinomial(probabilities, 1).squeeze(1).masked_fill(ended, PAD)
        words.append(last)
        # asking a GPU would make it wait for the answer, at every word
        if not last.is_cuda and bool(((last == END) | (last == PAD)).all()):
            break
    return torch.stack(words, 1)


def captions_of(samples: Tensor, names: Sequence[str], vocabulary: Vocabulary) -> list[Sampled]:
    """Return sampled ids (R, T) as captions. Each image in `names` has as many rows, adjacent."""
    count = len(samples) // len(names)
    rows = samples[:, 1:].tolist()
    return [Sampled(names[i // count], vocabulary.decode(row), END in row) for i, row in enumerate(rows)]


def advantages(rewards: Sequence[float], images: int) -> Tensor:
    """Return each caption's reward minus the mean reward of its image's other captions: R rewards -> (R,)."""
    table = torch.tensor(rewards).view(images, -1)
    baseline = (table.sum(1, keepdim=True) - table) / max(1, table.size(1) - 1)
    return (table - baseline).flatten()
