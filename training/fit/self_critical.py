"""Self-critical training: sentences are sampled, and those that score better than their siblings become likelier.

Rennie et al. 2017 (arXiv:1612.00563), with the mean of an image's other samples as the baseline (Luo 2020,
arXiv:2003.09971). The reward is CIDEr-D, its document frequencies those of the training captions, and the end
mark is a word of it: without, sentences learn to stop in the middle (SacreEOS, arXiv:2305.12254).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from captioning.model.decoder import CaptionDecoder
from captioning.model.vocabulary import END, PAD, START, Vocabulary
from training.fit.network import only_words

_ORDERS = 4
_SIGMA = 6.0  # of the penalty for another length, in words
_END = "<end>"
Ngram = tuple[str, ...]


class CiderReward:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726) of sentences about training images, 0 to 10.

    With `end`, the end mark is a word like any other, as training needs it; without, it is the published measure.
    """

    def __init__(self, references: Mapping[str, Sequence[Sequence[str]]], *, end: bool = True) -> None:
        self._end = [_END] if end else []
        counted = {name: [_ngrams([*words, *self._end]) for words in texts] for name, texts in references.items()}
        self._frequency: Counter[Ngram] = Counter()  # images in whose captions an n-gram occurs
        for sentences in counted.values():
            self._frequency.update(set().union(*sentences))
        self._images = math.log(len(counted))
        self._references = {name: [self._weighed(c) for c in sentences] for name, sentences in counted.items()}

    def of(self, name: str, words: Sequence[str], *, ended: bool = True) -> float:
        """Return the reward of a sentence; one that was cut before its end doesn't earn the end mark."""
        vectors, norms, length = self._weighed(_ngrams([*words, *self._end] if ended else words))
        references = self._references[name]
        total = 0.0
        for theirs, their_norms, their_length in references:
            penalty = math.exp(-((length - their_length) ** 2) / (2 * _SIGMA**2))
            for order in range(_ORDERS):
                other, norm = theirs[order], norms[order] * their_norms[order]
                shared = sum(min(w, other[g]) * other[g] for g, w in vectors[order].items() if g in other)
                total += penalty * shared / norm if norm else 0.0
        return 10 * total / (_ORDERS * len(references))

    def _weighed(self, counts: Mapping[Ngram, int]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        """Return tf-idf by order, their norms, and the length as the reference scorer has it: in bigrams."""
        vectors: list[dict[Ngram, float]] = [{} for _ in range(_ORDERS)]
        for ngram, count in counts.items():
            idf = self._images - math.log(max(1, self._frequency[ngram]))
            vectors[len(ngram) - 1][ngram] = count * idf
        norms = [math.sqrt(sum(w * w for w in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))


def sample(decoder: CaptionDecoder, grid: Tensor, count: int, longest: int, temperature: float = 1.0) -> Tensor:
    """Draw `count` sentences an image from the model: (B, N, F) -> (B x count, T), START first, PAD after END."""
    memory, state = decoder.start(grid)
    state = tuple(s.repeat_interleave(count, 1) for s in state)
    last = torch.full((grid.size(0) * count,), START, device=grid.device)
    words = [last]
    for _ in range(longest + 1):
        logp, state = decoder.step(last, state, memory)
        ended = (last == END) | (last == PAD)
        last = (
            torch.multinomial(torch.softmax(only_words(logp) / temperature, -1), 1).squeeze(1).masked_fill(ended, PAD)
        )
        words.append(last)
        if bool(((last == END) | (last == PAD)).all()):
            break
    return torch.stack(words, 1)


def advantages(
    sentences: Tensor, names: Sequence[str], reward: CiderReward, vocabulary: Vocabulary
) -> tuple[Tensor, float]:
    """Return by how much each sentence (R, T) beats the mean of its siblings (R,), and the mean reward."""
    count = len(sentences) // len(names)
    rows = sentences[:, 1:].tolist()
    rewards = torch.tensor(
        [reward.of(names[i // count], vocabulary.decode(row), ended=END in row) for i, row in enumerate(rows)]
    ).view(len(names), count)
    siblings = (rewards.sum(1, keepdim=True) - rewards) / max(1, count - 1)
    return (rewards - siblings).flatten().to(sentences.device), float(rewards.mean())
