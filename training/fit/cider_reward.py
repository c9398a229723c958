"""The reward of self-critical training: CIDEr-D of a sampled caption.

Does not import torch: processes that compute rewards start in a second.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from captioning.word_groups import THINGS
from training.data.tokens import repeated

_ORDERS = 4
_SIGMA = 6.0  # of the length penalty, in words
_END = "<end>"
_USUAL_CAPTIONS = 5  # of an image, in Flickr8k and in COCO
Ngram = tuple[str, ...]


class Sampled(NamedTuple):
    """A sampled caption."""

    name: str  # of its image
    words: list[str]
    ended: bool  # not cut before its end


class Penalties(NamedTuple):
    """What a caption's reward loses."""

    repeat: float = 0.0  # for each content word that it has again
    invention: float = 0.0  # for people, and for dogs, where no reference of the image has any


class CiderReward:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726) of captions of training images, from 0 to 10.

    Written by hand because the reference scorer has no end token, and computes the references' vectors again for each
    call: here a call comes with every training step. With `end` the end token is a word, as training needs it; without,
    this is the published measure, without penalties.
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[Sequence[str]]],
        *,
        end: bool = True,
        penalties: Penalties = Penalties(),  # noqa: B008, a value
    ) -> None:
        self._penalties = penalties
        self._absent = {name: _absent(captions) for name, captions in references.items()}
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
        return 10 * total / (_ORDERS * len(references)) - self._penalty(name, words)

    def _penalty(self, name: str, words: Sequence[str]) -> float:
        invented = sum(not things.isdisjoint(words) for things in self._absent[name])
        return self._penalties.repeat * repeated(words) + self._penalties.invention * invented

    def weight(self, name: str) -> float:
        """Return how much the rewards of an image count: n/5 when it has n captions, at most 1.

        A copy of an image's only caption gets 10, a copy of one of five little more than 2. So without a weight the
        decoders would learn the images with one caption by heart, instead of what the captions of others share.
        """
        return min(1.0, len(self._references[name]) / _USUAL_CAPTIONS)

    def _vectors(self, counts: Mapping[Ngram, int]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        """Return the tf-idf vectors by order, their norms, and the length in bigrams, as the reference scorer does."""
        vectors: list[dict[Ngram, float]] = [{} for _ in range(_ORDERS)]
        for ngram, count in counts.items():
            idf = self._log_images - math.log(max(1, self._frequency[ngram]))
            vectors[len(ngram) - 1][ngram] = count * idf
        norms = [math.sqrt(sum(w * w for w in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _absent(captions: Sequence[Sequence[str]]) -> list[set[str]]:
    """Return the words of each of THINGS of which no caption has any."""
    return [things for things in THINGS.values() if all(things.isdisjoint(words) for words in captions)]


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))
