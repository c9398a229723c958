"""Whether an image shows people, or dogs: what captioners that learned from photographs of both name anyway."""

import torch
from torch import Tensor, nn

from captioning.model.vocabulary import PAD, Vocabulary
from captioning.word_groups import THINGS


class Presence(nn.Module):
    """Tells how probable each of THINGS is in an image, by logistic regression on its mean features."""

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_size, len(THINGS))

    def forward(self, features: Tensor) -> Tensor:
        """Return the probability of each of THINGS for grids (B, N, F): (B, things)."""
        with torch.autocast(features.device.type, enabled=False):
            return torch.sigmoid(self.linear(features.float().mean(1)))


class AbsentWords:
    """Finds the words that a caption must not have, because what they name is not in the image."""

    def __init__(self, vocabulary: Vocabulary, probability: float) -> None:
        """A thing is absent if it is less probable than `probability`."""
        self.probability = probability
        of_things = torch.tensor([[word in words for word in vocabulary.words] for words in THINGS.values()])
        self._ids = of_things.any(0).nonzero().squeeze(1)  # (X,)
        self._named = of_things[:, self._ids]  # (things, X)

    def of(self, present: Tensor) -> Tensor:
        """Return the ids of the words that are excluded, PAD for none: probabilities (B, things) -> (B, X).

        X is the same for all images and batches.
        """
        absent = (present < self.probability).unsqueeze(-1)
        excluded = (absent & self._named.to(present.device)).any(1)
        return torch.where(excluded, self._ids.to(present.device), PAD)


def least_present(caption: str, present: list[float]) -> float:
    """Return the probability of the least probable of THINGS that a caption names; 1 if it names none."""
    words = set(caption.split())
    named = (p for p, things in zip(present, THINGS.values(), strict=True) if words & things)
    return min(named, default=1.0)
