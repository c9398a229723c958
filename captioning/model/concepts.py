"""What the encoder's ImageNet classifier sees in an image, as words that the decoder knows.

Each class has plain words or phrases, its name and its kind ("golden retriever", "dog"). The probabilities of classes
with the same phrase are added up, and the most probable phrases are the image's concepts. The decoder attends to them,
and may copy one: the attended concept is added to the vector that is compared with every word's embedding. Concepts of
attributes or detected words for captioning: You et al. 2016 (arXiv:1603.03925), Wu et al. 2016 (arXiv:1506.01144);
copying: Gu et al. 2016 (arXiv:1603.06393).
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioning.model.vocabulary import PAD, Vocabulary

_LEAST = 1e-6  # lower probabilities of concepts count as this one


class Concepts(NamedTuple):
    """The concepts of B images, K each, the most probable first."""

    words: Tensor  # (B, K, L) ids of each concept's words, PAD after the last
    weights: Tensor  # (B, K) probabilities; 0: no concept

    def to(self, device: torch.device) -> "Concepts":
        """Return them on a device."""
        return Concepts(self.words.to(device, non_blocking=True), self.weights.to(device, non_blocking=True))


class ConceptClassifier(nn.Module):
    """Turns grid features into concepts: a linear classifier (classes, F) and the phrases of each class."""

    phrases_of: Tensor
    words: Tensor

    def __init__(self, feature_size: int, phrases: Sequence[Sequence[str]], vocabulary: Vocabulary, count: int) -> None:
        """`phrases` has those of each class; one with a word that the vocabulary lacks is never a concept."""
        super().__init__()
        self.count = count
        self.head = nn.Linear(feature_size, len(phrases))
        self.phrases = [p for p in dict.fromkeys(chain.from_iterable(phrases)) if _ids(p, vocabulary)]
        index = {phrase: i for i, phrase in enumerate(self.phrases)}
        none, most = len(self.phrases), max(map(len, phrases))
        rows = [torch.tensor(_ids(phrase, vocabulary)) for phrase in self.phrases]
        rows.append(torch.tensor([PAD]))  # of classes without a phrase
        of_classes = [[index.get(p, none) for p in own] + [none] * (most - len(own)) for own in phrases]
        self.register_buffer("words", nn.utils.rnn.pad_sequence(rows, True, PAD), persistent=False)
        self.register_buffer("phrases_of", torch.tensor(of_classes), persistent=False)  # (classes, most)

    def forward(self, features: Tensor) -> Concepts:
        """Return the concepts of grid features (B, N, F)."""
        return self.concepts(self.probabilities(features))

    def concepts(self, probabilities: Tensor) -> Concepts:
        """Return the most probable phrases: (B, phrases + 1) -> K of each image."""
        weights, phrases = probabilities.topk(min(self.count, len(self.words)))
        return Concepts(self.words[phrases], weights)

    def probabilities(self, features: Tensor) -> Tensor:
        """Return how probable each phrase is: (B, N, F) -> (B, phrases + 1), the last 0."""
        with torch.autocast(features.device.type, enabled=False):
            probabilities = torch.softmax(self.head(features.float().mean(1)), -1)
        found = probabilities.new_zeros(len(features), len(self.words))
        for phrases in self.phrases_of.T:
            found.index_add_(1, phrases, probabilities)
        found[:, -1] = 0  # classes without a phrase
        return found


def _ids(phrase: str, vocabulary: Vocabulary) -> list[int]:
    """Return the ids of a phrase's words, none if the vocabulary lacks one."""
    words = phrase.split()
    ids = vocabulary.encode(words)
    return ids if all(vocabulary.words[i] == word for i, word in zip(ids, words, strict=True)) else []


class ConceptAttention(nn.Module):
    """Attends to the concepts of an image after each word, or to none of them."""

    def __init__(self, hidden_size: int, embedding_size: int, states: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, embedding_size)
        self.key = nn.Linear(embedding_size, embedding_size)
        self.none = nn.Parameter(torch.zeros(1))  # the score of attending to no concept
        self.trust = nn.Parameter(torch.ones(1))  # multiplies the log-probabilities of the concepts
        self.strength = nn.Parameter(torch.ones(1))  # of copying
        self.initial = nn.Linear(embedding_size, states * hidden_size)

    def encode(self, embedded: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the memory (B, K, E), (B, K, E), (B, K) of embedded concepts (B, K, E) with weights (B, K)."""
        scores = self.trust * weights.clamp(min=_LEAST).log()
        return self.key(embedded), embedded, scores.masked_fill(weights <= 0, float("-inf"))

    def first_state(self, embedded: Tensor, weights: Tensor) -> Tensor:
        """Return what the concepts add to the first states: (B, states x H)."""
        return torch.tanh(self.initial((weights.unsqueeze(-1) * embedded).sum(1)))

    def forward(self, hidden: Tensor, memory: Sequence[Tensor]) -> Tensor:
        """Return the attended concept for hidden states (R, T, H): (R, T, E), added to what is compared with words."""
        keys, values, scores = memory
        rows, steps, _ = hidden.shape
        queries = self.query(hidden).view(keys.size(0), -1, keys.size(-1))  # (B, R/B*T, E)
        found = queries @ keys.transpose(1, 2) / keys.size(-1) ** 0.5 + scores.unsqueeze(1)
        attention = torch.softmax(torch.cat([found, self.none.expand(*found.shape[:2], 1)], -1).float(), -1)
        copied = attention[..., :-1].to(values.dtype) @ values
        return (self.strength * copied).view(rows, steps, -1)
