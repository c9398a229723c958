"""Which words may come next, applied to the logits of a step. The rules are those of `captioning.model.beam`."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from captioning.model.beam import IMPOSSIBLE
from captioning.model.gender import NeutralWords
from captioning.model.search.best_words import best_words
from captioning.model.vocabulary import END, PAD, START, UNKNOWN
from captioning.values import DecodeOptions


class Candidates(NamedTuple):
    """Words that may come next after each of K hypotheses of B images, the best first."""

    words: Tensor  # (B, K, C) ids
    log_probabilities: Tensor  # (B, K, C) nats; minus infinity: must not come
    masked: Tensor  # (B, K, V) logits, minus infinity where a word must not come
    normaliser: Tensor  # (B, K, 1) that logits minus it are log-probabilities
    ended: Tensor  # (B, K) hypotheses that have ended


@dataclass(frozen=True)
class Rules:
    """What holds for all images of a search."""

    options: DecodeOptions
    once: Tensor | None = None  # (V,) words that come only once in a hypothesis
    neutral: "NeutralGroups | None" = None

    def candidates(self, logits: Tensor, words: Tensor, excluded: Tensor | None, count: int) -> Candidates:
        """Return the best `count` words after hypotheses (B, K, L), START first. Logits (B x K, V) are changed.

        `excluded` (B, X) are words that must not come for an image, PAD for none.
        """
        normaliser = logits.logsumexp(-1).view(*words.shape[:2], 1)
        if self.neutral is not None:
            self.neutral.apply(logits)
        masked = logits.view(*words.shape[:2], -1)
        if excluded is not None:
            masked.scatter_(-1, excluded.unsqueeze(1).expand(-1, words.size(1), -1), IMPOSSIBLE)
        end = masked[..., END].clone()
        for token in (PAD, START, UNKNOWN, *([END] if words.size(-1) <= self.options.min_words else [])):
            masked[..., token].fill_(IMPOSSIBLE)
        masked.scatter_(-1, self._forbidden(words), IMPOSSIBLE)
        if words.size(-1) > self.options.max_words:
            masked.fill_(IMPOSSIBLE)  # only END may come
        scores, found = (part.view(*words.shape[:2], -1) for part in best_words(logits, count))
        scores, found = self._with_end(scores, found, end, words.size(-1) - 1)
        scores = scores - normaliser
        ended = (words[..., -1] == END) | (words[..., -1] == PAD)
        scores.masked_fill_(ended.unsqueeze(-1), IMPOSSIBLE)
        scores[..., 0].masked_fill_(ended, 0.0)  # an ended hypothesis is padded at no cost
        found[..., 0].masked_fill_(ended, PAD)
        return Candidates(found, scores, masked, normaliser, ended)

    def _forbidden(self, words: Tensor) -> Tensor:
        """Return ids of words that must not come again after hypotheses (B, K, L), some of them twice: (B, K, n)."""
        parts = [words[..., -1:]]
        if words.size(-1) > 3:  # no three words occur twice
            same = (words[..., :-2] == words[..., -2:-1]) & (words[..., 1:-1] == words[..., -1:])
            parts.append(torch.where(same, words[..., 2:], PAD))
        if self.once is not None:
            parts.append(torch.where(self.once[words], words, PAD))
        return torch.cat(parts, -1)

    def _with_end(self, scores: Tensor, found: Tensor, end: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Let hypotheses of `length` words end where they must: the longest, and those that have used all words."""
        may_end = length >= self.options.min_words
        if length == self.options.max_words:
            allowed = may_end or self.once is not None
            scores[..., 0], found[..., 0] = (end if allowed else IMPOSSIBLE), END
        elif self.once is not None and not may_end:
            used_up = scores[..., 0] == IMPOSSIBLE
            scores[..., 0] = torch.where(used_up, end, scores[..., 0])
            found[..., 0] = torch.where(used_up, END, found[..., 0])
        return scores, found


class NeutralGroups:
    """`NeutralWords` for all groups at once. Its rule compares scores of one row, so it holds for logits too."""

    def __init__(self, neutral: NeutralWords, device: torch.device) -> None:
        most = max(len(ids) for male, female, _ in neutral.groups for ids in (male, female))
        sides = [ids for male, female, _ in neutral.groups for ids in (male, female)]
        padded = torch.stack([torch.cat([ids, ids[:1].expand(most - len(ids))]) for ids in sides])
        self._shape = (len(neutral.groups), 2, most)
        self._gendered = padded.flatten().to(device)
        counted = torch.arange(most) < torch.tensor([len(ids) for ids in sides]).unsqueeze(1)
        self._padding = torch.zeros(counted.shape).masked_fill(~counted, IMPOSSIBLE).view(self._shape).to(device)
        self._neutral = torch.tensor([word for _, _, word in neutral.groups], device=device)
        self._share = torch.tensor(neutral.share).log().item()

    @classmethod
    def of(cls, neutral: NeutralWords | None, device: torch.device) -> "NeutralGroups | None":
        """Return the groups of a captioner; None where it has none."""
        return cls(neutral, device) if neutral is not None and neutral.groups else None

    def apply(self, logits: Tensor) -> None:
        """Change logits (R, V) in place."""
        words = logits.index_select(1, self._gendered).view(-1, *self._shape)
        sides = (words + self._padding).logsumexp(-1)  # (R, groups, 2)
        both = torch.logaddexp(sides[..., 0], sides[..., 1])
        unsure = sides.amax(-1) < both + self._share
        plain = logits.index_select(1, self._neutral)
        replaced = torch.where(unsure, torch.logaddexp(plain, both), plain)
        kept = words.masked_fill(unsure.view(-1, len(self._neutral), 1, 1), IMPOSSIBLE)
        logits.index_copy_(1, self._neutral, replaced)
        logits.index_copy_(1, self._gendered, kept.flatten(1))
