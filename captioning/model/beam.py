"""Batched beam search: next-word scores to the best captions. Greedy search is beam search with one beam.

It takes a `step` function, not a model, so that a test can pass a table of probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.model.vocabulary import END, PAD, START, UNKNOWN
from captioning.values import DecodeOptions

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""Words (R,) and the state -> log-probabilities (R, V), in nats, and the new state. State tensors are (L, R, ...)."""

IMPOSSIBLE = float("-inf")
"""The score of what must not be chosen."""


@dataclass(frozen=True)
class BeamResult:
    """The hypotheses found for B images, K for each, the best first."""

    words: Tensor  # (B, K, T) ids; after the last word END, then PAD
    log_probabilities: Tensor  # (B, K, T) nats of each word and of END; 0 after it
    scores: Tensor  # (B, K), the order of the hypotheses


def beam_search(step: Step, state: State, options: DecodeOptions, once: Tensor | None = None) -> BeamResult:
    """Search `beam_size` hypotheses for each of B images by sum(log p); rank them by sum(log p) / length**length_power.

    The length counts END.

    `state` has one row per image. Special tokens are never chosen as words. No word follows itself, and no three
    consecutive words occur twice in a hypothesis: such loops are a common failure of recurrent decoders. `once` (V,) is
    true for words that occur only once in a hypothesis; one that has used all words ends, however short it is.
    """
    batch, beams, device = state[0].size(1), options.beam_size, state[0].device
    state = tuple(s.repeat_interleave(beams, 1) for s in state)
    words = torch.full((batch, beams, 1), START, device=device)
    log_probabilities = torch.zeros(batch, beams, 0, device=device)  # of every word so far
    totals = torch.full((batch, beams), IMPOSSIBLE, device=device)
    totals[:, 0] = 0  # all beams of an image start alike, so only one may branch at first
    first_row = beams * torch.arange(batch, device=device).unsqueeze(1)
    for length in range(options.max_words + 1):
        last = words[..., -1]
        logp, state = step(last.flatten(), state)
        logp = logp.view(batch, beams, -1)
        ended = (last == END) | (last == PAD)
        allowed = allowed_words(logp, words, ended, length, options, once)
        totals, flat = (totals.unsqueeze(-1) + allowed).flatten(1).topk(beams)  # (B, K): the best of K x V
        parent, word = flat // logp.size(-1), flat % logp.size(-1)
        chosen = allowed.flatten(1).gather(1, flat).masked_fill(totals == IMPOSSIBLE, 0.0)
        words = torch.cat([reorder(words, parent), word.unsqueeze(-1)], -1)
        log_probabilities = torch.cat([reorder(log_probabilities, parent), chosen.unsqueeze(-1)], -1)
        rows = (parent + first_row).flatten()
        state = tuple(s[:, rows] for s in state)
        if bool(((word == END) | (word == PAD)).all()):
            break
    return ranked(words[..., 1:], log_probabilities, totals, options)


def ranked(words: Tensor, log_probabilities: Tensor, totals: Tensor, options: DecodeOptions) -> BeamResult:
    """Return hypotheses (B, K, T), without START, in the order of their scores."""
    lengths = (words != PAD).sum(-1).clamp(min=1)
    scores, order = torch.sort(totals / lengths**options.length_power, dim=-1, descending=True, stable=True)
    return BeamResult(reorder(words, order), reorder(log_probabilities, order), scores)


def reorder(history: Tensor, parent: Tensor) -> Tensor:
    """Return, for each beam, the history (B, K, T) of its parent (B, K)."""
    return history.gather(1, parent.unsqueeze(-1).expand(-1, -1, history.size(-1)))


def allowed_words(
    logp: Tensor, words: Tensor, ended: Tensor, length: int, options: DecodeOptions, once: Tensor | None = None
) -> Tensor:
    """Return the scores (B, K, V), with minus infinity for words that must not come next."""
    allowed = logp.clone()
    allowed[..., [PAD, START, UNKNOWN]] = IMPOSSIBLE
    if length < options.min_words:
        allowed[..., END] = IMPOSSIBLE
    if length == options.max_words:  # a hypothesis that has not ended must end here
        end = allowed[..., END].clone()
        allowed[:] = IMPOSSIBLE
        allowed[..., END] = end
    allowed.scatter_(-1, words[..., -1:], IMPOSSIBLE)
    if words.size(-1) > 3:
        same = (words[..., :-2] == words[..., -2:-1]) & (words[..., 1:-1] == words[..., -1:])  # (B, K, T-2)
        third = torch.where(same, words[..., 2:], words[..., -1:])  # if different: a word already excluded
        allowed.scatter_(-1, third, IMPOSSIBLE)
    if once is not None:
        first = torch.full_like(words, PAD)  # which is excluded anyway
        allowed.scatter_(-1, torch.where(once[words], words, first), IMPOSSIBLE)
        used_up = allowed.amax(-1) == IMPOSSIBLE  # of a small vocabulary: the caption may end before min_words
        allowed[..., END] = torch.where(used_up, logp[..., END], allowed[..., END])
    allowed[ended] = IMPOSSIBLE
    allowed[..., PAD] = torch.where(ended, 0.0, allowed[..., PAD])  # an ended hypothesis is padded at no cost
    return allowed
