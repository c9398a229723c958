"""Neutral words for people where the model is not sure of a gender: "a person", not a guess.

Captioners guess gender from weak evidence and amplify what is frequent in their data (Hendricks et al. 2018,
arXiv:1803.09797). Where neither the male nor the female words of a pair have most of the probability of both, that
probability goes to the neutral word.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.bundles import Bundle
from captioning.model.vocabulary import Vocabulary

# the n-th of each belong together
MALE = (("man", "guy", "gentleman"), ("men", "guys", "gentlemen"), ("boy",), ("boys",), ("his",), ("he",))
FEMALE = (("woman", "lady"), ("women", "ladies"), ("girl",), ("girls",), ("her",), ("she",))
NEUTRAL = ("person", "people", "child", "children", "their", "they")


@dataclass(frozen=True)
class NeutralWords:
    """The groups of words that a vocabulary has, and the share from which a gender is named."""

    groups: tuple[tuple[Tensor, Tensor, int], ...]  # ids of male and of female words, id of the neutral one
    share: float  # that the male or the female words must have of both, from 0.5: always named

    @classmethod
    def of(cls, vocabulary: Vocabulary, share: float) -> "NeutralWords":
        """Return the groups of which the vocabulary knows all three parts."""

        def ids(words: tuple[str, ...]) -> Tensor:
            known = [i for i, word in zip(vocabulary.encode(words), words, strict=True) if vocabulary.words[i] == word]
            return torch.tensor(known, dtype=torch.long)

        found = ((ids(m), ids(f), ids((n,))) for m, f, n in zip(MALE, FEMALE, NEUTRAL, strict=True))
        return cls(tuple((m, f, int(n)) for m, f, n in found if len(m) and len(f) and len(n)), share)

    def apply(self, log_probabilities: Tensor) -> Tensor:
        """Change the log-probabilities of the next word (R, V), in place, and return them."""
        logp = log_probabilities
        for male, female, neutral in self.groups:
            of_male, of_female = (logp[:, ids.to(logp.device)].logsumexp(-1) for ids in (male, female))
            both = torch.logaddexp(of_male, of_female)
            unsure = torch.maximum(of_male, of_female) < both + torch.tensor(self.share).log()
            logp[:, neutral] = torch.where(unsure, torch.logaddexp(logp[:, neutral], both), logp[:, neutral])
            gendered = torch.cat([male, female]).to(logp.device)
            logp[:, gendered] = logp[:, gendered].masked_fill(unsure.unsqueeze(1), float("-inf"))
        return logp


def neutral_words(bundle: Bundle, vocabulary: Vocabulary) -> NeutralWords | None:
    """Return what a bundle's option `neutral_gender` says; None without it. Raises BundleError for a wrong value."""
    share = bundle.description.get("neutral_gender")
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.5 <= share <= 1:
        raise bundle.damaged(f"neutral_gender: must be a share from 0.5 to 1, not {share!r}")
    return NeutralWords.of(vocabulary, float(share))
