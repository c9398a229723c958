"""Next-word scores to the best sentences: batched beam search. Greedy is one beam.

It takes a `step`, not a model, so that a table of probabilities can stand in for one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.model.vocabulary import END, PAD, START, UNKNOWN
from captioning.values import DecodeOptions

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""Words (R,) and the state -> log-probabilities (R, V) in nats and the new state; state tensors are (L, R, ...)."""

_NEVER = float("-inf")


@dataclass(frozen=True)
class BeamResult:
    """What a search found for B images, K sentences each, the best first."""

    words: Tensor  # (B, K, T) ids; END, then PAD, after the last word
    log_probabilities: Tensor  # (B, K, T) nats a word, END too; 0 after it
    scores: Tensor  # (B, K), what they are ranked by


def beam_search(step: Step, state: State, options: DecodeOptions) -> BeamResult:
    """Find the `beam_size` sentences with the best sum(log p) / length**length_power for each of B images.

    `state` has one row an image. Marks are never words; no word follows itself and no three words in a
    row come twice in a sentence: the loops that a recurrent decoder falls into.
    """
    batch, beams, device = state[0].size(1), options.beam_size, state[0].device
    state = tuple(s.repeat_interleave(beams, 1) for s in state)
    words = torch.full((batch, beams, 1), START, device=device)
    spoken = torch.zeros(batch, beams, 0, device=device)  # log-probability of every word so far
    totals = torch.full((batch, beams), _NEVER, device=device)
    totals[:, 0] = 0  # the beams begin alike: only one may branch
    first_row = beams * torch.arange(batch, device=device).unsqueeze(1)
    for length in range(options.max_words + 1):
        last = words[..., -1]
        logp, state = step(last.flatten(), state)
        logp = logp.view(batch, beams, -1)
        ended = (last == END) | (last == PAD)
        allowed = _allowed(logp, words, ended, length, options)
        totals, flat = (totals.unsqueeze(-1) + allowed).flatten(1).topk(beams)  # (B, K): the best of K x V
        parent, word = flat // logp.size(-1), flat % logp.size(-1)
        said = allowed.flatten(1).gather(1, flat).masked_fill(totals == _NEVER, 0.0)
        words = torch.cat([_follow(words, parent), word.unsqueeze(-1)], -1)
        spoken = torch.cat([_follow(spoken, parent), said.unsqueeze(-1)], -1)
        rows = (parent + first_row).flatten()
        state = tuple(s[:, rows] for s in state)
        if bool(((word == END) | (word == PAD)).all()):
            break
    words = words[..., 1:]
    lengths = (words != PAD).sum(-1).clamp(min=1)
    scores, order = torch.sort(totals / lengths**options.length_power, dim=-1, descending=True, stable=True)
    return BeamResult(_follow(words, order), _follow(spoken, order), scores)


def _follow(history: Tensor, parent: Tensor) -> Tensor:
    return history.gather(1, parent.unsqueeze(-1).expand(-1, -1, history.size(-1)))


def _allowed(logp: Tensor, words: Tensor, ended: Tensor, length: int, options: DecodeOptions) -> Tensor:
    """Return the scores (B, K, V) with what may not come next at minus infinity."""
    allowed = logp.clone()
    allowed[..., [PAD, START, UNKNOWN]] = _NEVER
    if length < options.min_words:
        allowed[..., END] = _NEVER
    if length == options.max_words:  # time is up: a sentence that hasn't ended ends here
        end = allowed[..., END].clone()
        allowed[:] = _NEVER
        allowed[..., END] = end
    allowed.scatter_(-1, words[..., -1:], _NEVER)
    if words.size(-1) > 3:
        same = (words[..., :-2] == words[..., -2:-1]) & (words[..., 1:-1] == words[..., -1:])  # (B, K, T-2)
        third = torch.where(same, words[..., 2:], words[..., -1:])  # elsewhere a word that is banned already
        allowed.scatter_(-1, third, _NEVER)
    allowed[ended] = _NEVER
    allowed[..., PAD] = torch.where(ended, 0.0, allowed[..., PAD])  # an ended sentence waits for free
    return allowed
