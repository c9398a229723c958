"""Beam search for captions that must contain a given phrase: constrained beam search, Anderson et al. 2017
(arXiv:1612.00576).

Hypotheses are kept in banks by how much of the phrase they have: none of it, its first word, ... all of it. Each bank
has `beam_size` hypotheses, so one that has the phrase is not pushed out by more probable ones without it. A hypothesis
that has begun the phrase must go on with it, and only one that has all of it may end.
"""

import torch
from torch import Tensor

from captioning.model.beam import IMPOSSIBLE, BeamResult, Step, allowed_words, ranked, reorder
from captioning.model.vocabulary import END, PAD, START
from captioning.values import DecodeOptions

State = tuple[Tensor, ...]


def constrained_search(
    step: Step, state: State, phrases: Tensor, options: DecodeOptions, once: Tensor | None = None
) -> BeamResult:
    """Search captions of B images that contain the phrase of each; other arguments as `beam_search`.

    `phrases` (B, L, A) has the ids of L words, each with A alternatives ("dog", "dogs"), PAD for none. A phrase that is
    shorter than L begins with words that have no alternative. Scores are minus infinity where no caption was found.
    """
    batch, length, _ = phrases.shape
    banks, beams, device = length + 1, options.beam_size, phrases.device
    short = (phrases == PAD).all(-1).sum(1)  # (B,) words that a phrase lacks; its first bank after 0 is short + 1
    state = tuple(s.repeat_interleave(banks * beams, 1) for s in state)
    words = torch.full((batch, banks, beams, 1), START, device=device)
    log_probabilities = torch.zeros(batch, banks, beams, 0, device=device)
    totals = torch.full((batch, banks, beams), IMPOSSIBLE, device=device)
    totals[:, 0, 0] = 0
    first_row = (banks * beams * torch.arange(batch, device=device)).view(-1, 1, 1)
    for place in range(options.max_words + 1):
        last = words[..., -1]
        logp, state = step(last.flatten(), state)
        flat_words = words.flatten(1, 2)
        ended = (flat_words[..., -1] == END) | (flat_words[..., -1] == PAD)
        allowed = allowed_words(logp.view(batch, banks * beams, -1), flat_words, ended, place, options, once)
        allowed = allowed.view(batch, banks, beams, -1)
        size = allowed.size(-1)
        chosen, parents, new = [], [], []
        for bank in range(banks):
            scores = _entering(allowed, totals, bank, phrases, short)  # (B, banks, K, V)
            found, flat = scores.flatten(1).topk(beams)
            parent = flat // size  # (B, K) among banks x beams
            chosen.append(found)
            parents.append(parent)
            new.append(flat % size)
        totals, parent, word = torch.stack(chosen, 1), torch.stack(parents, 1), torch.stack(new, 1)
        of_word = allowed.flatten(1).gather(1, (parent * size + word).flatten(1)).view(totals.shape)
        flat_parent = parent.flatten(1)
        words = torch.cat([reorder(flat_words, flat_parent).view(*parent.shape, -1), word.unsqueeze(-1)], -1)
        history = reorder(log_probabilities.flatten(1, 2), flat_parent).view(*parent.shape, -1)
        kept = of_word.masked_fill(totals == IMPOSSIBLE, 0.0).unsqueeze(-1)
        log_probabilities = torch.cat([history, kept], -1)
        rows = (parent + first_row).flatten()
        state = tuple(s[:, rows] for s in state)
        if bool(_is_over(word[:, -1], totals).all()):
            break
    return ranked(words[:, -1, :, 1:], log_probabilities[:, -1], totals[:, -1], options)


def _is_over(word: Tensor, totals: Tensor) -> Tensor:
    """Return for which images (B,) nothing better can be found: scores only fall.

    `word` (B, K) are the last words of the hypotheses that have the phrase, `totals` (B, banks, K) the scores of all.
    """
    ended = ((word == END) | (word == PAD)).all(1)
    return ended & (totals[:, :-1].flatten(1).amax(1) <= totals[:, -1].amin(1))


def _entering(allowed: Tensor, totals: Tensor, bank: int, phrases: Tensor, short: Tensor) -> Tensor:
    """Return the scores of the hypotheses (B, banks, K, V) that may come into a bank with the next word."""
    batch, banks, _, size = allowed.shape
    scores = torch.full_like(allowed, IMPOSSIBLE)
    complete = banks - 1
    if bank in (0, complete):  # they may take any word and stay
        scores[:, bank] = allowed[:, bank] + totals[:, bank].unsqueeze(-1)
    if bank == 0:
        scores[:, 0, :, END] = IMPOSSIBLE
        scores[:, 0, :, PAD] = IMPOSSIBLE
        return scores
    fits = torch.zeros(batch, size, dtype=torch.bool, device=allowed.device).scatter_(1, phrases[:, bank - 1], True)
    fits[:, PAD] = False
    starts = short == bank - 1  # images of which this is the first word of the phrase
    for source, of_source in ((0, starts), (bank - 1, ~starts & (short < bank - 1))):
        candidates = allowed[:, source] + totals[:, source].unsqueeze(-1)
        usable = (fits & of_source.unsqueeze(1)).unsqueeze(1)
        scores[:, source] = torch.where(usable, candidates, scores[:, source])
    return scores
