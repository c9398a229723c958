"""Beam search for captions with a given phrase, from each row's best words.

`captioning.model.constrained` is its definition, and says what banks are. Here the hypotheses of all banks stand in one
row of beams: bank 0 first, `beam_size` of each.
"""

import torch
from torch import Tensor

from captioning.model.beam import IMPOSSIBLE, BeamResult, State, ranked
from captioning.model.decoder import Memory
from captioning.model.search.beam import Hypotheses, Loop, Open, Score, extended, moved, searched_images
from captioning.model.search.rules import Candidates, Rules
from captioning.model.vocabulary import END, PAD, START


class PhraseBanks:
    """What the phrases (B, L, A) of B images let a hypothesis do, bank by bank."""

    def __init__(self, phrases: Tensor, beams: int) -> None:
        self.phrases, self.beams, self.complete = phrases, beams, phrases.size(1)
        self.short = (phrases == PAD).all(-1).sum(1)  # (B,) words that a phrase lacks
        self.alternatives = phrases.size(2)

    def entering(self, bank: int, found: Candidates, totals: Tensor) -> tuple[Tensor, ...]:
        """Return the best that may come into a bank: parents, words, their log-probabilities and totals, (B, K)."""
        parts = [self._staying(bank, found)] if bank in (0, self.complete) else []
        if bank:
            starts = self.short == bank - 1  # images of which this is the first word of the phrase
            goes_on = ~starts & (self.short < bank - 1)
            parts += [self._phrase(bank, 0, found, starts), self._phrase(bank, bank - 1, found, goes_on)]
        scores, parents, words = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
        best, place = (scores + totals.gather(1, parents)).topk(self.beams)
        return parents.gather(1, place), words.gather(1, place), scores.gather(1, place), best

    def _rows(self, bank: int) -> slice:
        return slice(bank * self.beams, (bank + 1) * self.beams)

    def _parents(self, bank: int, each: int) -> Tensor:
        parents = torch.arange(bank * self.beams, (bank + 1) * self.beams, device=self.phrases.device)
        return parents.repeat_interleave(each).expand(len(self.phrases), -1)

    def _staying(self, bank: int, found: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """Return the words after which a hypothesis stays in its bank: any; but without the phrase it may not end."""
        words, scores = found.words[:, self._rows(bank)], found.log_probabilities[:, self._rows(bank)]
        if bank == 0:
            scores = scores.masked_fill((words == END) | (words == PAD), IMPOSSIBLE)
        return scores.flatten(1), self._parents(bank, words.size(-1)), words.flatten(1)

    def _phrase(self, bank: int, source: int, found: Candidates, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the words of the phrase that take hypotheses of some images from one bank into another."""
        words = self.phrases[:, bank - 1].unsqueeze(1).expand(-1, self.beams, -1)
        rows = self._rows(source)
        scores = found.masked[:, rows].gather(-1, words) - found.normaliser[:, rows]
        usable = images.view(-1, 1, 1) & ~found.ended[:, rows].unsqueeze(-1) & (words != PAD)
        scores = scores.masked_fill(~usable, IMPOSSIBLE)
        return scores.flatten(1), self._parents(source, self.alternatives), words.flatten(1)


def constrained_search(
    score: Score, memory: Memory, state: State, phrases: Tensor, rules: Rules, excluded: Tensor | None = None,
    loop: Loop = searched_images,
) -> BeamResult:  # fmt: skip
    """Search captions that contain the phrase of each image, as `captioning.model.constrained.constrained_search`.

    The other arguments are those of `captioning.model.search.beam.beam_search`.
    """
    beams = rules.options.beam_size
    begun = _started((*memory, phrases), state, phrases.size(1) + 1, beams, excluded)
    found = loop(
        begun, lambda images: _advanced(score, images, rules), lambda images: _over(images.hypotheses, beams), rules
    )
    last = slice(-beams, None)  # the bank of those that have the phrase
    return ranked(found.words[:, last, 1:], found.log_probabilities[:, last], found.totals[:, last], rules.options)


def _started(memory: Memory, state: State, banks: int, beams: int, excluded: Tensor | None) -> Open:
    """Return B images with banks of hypotheses without a word. One of each image is possible: they start alike."""
    batch, device = state[0].size(1), state[0].device
    totals = torch.full((batch, banks * beams), IMPOSSIBLE, device=device)
    totals[:, 0] = 0
    words = torch.full((batch, banks * beams, 1), START, device=device)
    empty = Hypotheses(words, torch.zeros(*totals.shape, 0, device=device), totals)
    rows = tuple(part.repeat_interleave(banks * beams, 1) for part in state)
    return Open(torch.arange(batch, device=device), empty, rows, memory, excluded)


def _advanced(score: Score, found: Open, rules: Rules) -> Open:
    """Return the images with hypotheses of one more word in each bank. The memory ends with the phrases."""
    *memory, phrases = found.memory
    before, beams = found.hypotheses, rules.options.beam_size
    logits, state = score(before.words[..., -1].flatten(), found.state, tuple(memory))
    candidates = rules.candidates(logits, before.words, found.excluded, beams + 1)  # one of them may be END
    banks = PhraseBanks(phrases, beams)
    entering = [banks.entering(bank, candidates, before.totals) for bank in range(banks.complete + 1)]
    parent, word, chosen, totals = (torch.cat(parts, 1) for parts in zip(*entering, strict=True))
    hypotheses = extended(before, parent, word, chosen, totals)
    return Open(found.images, hypotheses, moved(state, parent, before.words.size(1)), found.memory, found.excluded)


def _over(found: Hypotheses, beams: int) -> Tensor:
    """Return for which images (B,) nothing better can be found: those with the phrase ended, and scores only fall."""
    last, totals = found.words[:, -beams:, -1], found.totals
    ended = ((last == END) | (last == PAD)).all(1)
    return ended & (totals[:, :-beams].amax(1) <= totals[:, -beams:].amin(1))
