"""Beam search from each row's best words. `captioning.model.beam` is its definition."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from captioning.model.beam import IMPOSSIBLE, BeamResult, State, ranked, reorder
from captioning.model.decoder import Memory
from captioning.model.search.prepared import select
from captioning.model.search.rules import Rules
from captioning.model.vocabulary import END, PAD, START

Score = Callable[[Tensor, State, Memory], tuple[Tensor, State]]
"""Words (R,), the state and the memory -> logits (R, V), which the search may change, and the new state."""

_SMALLER = 0.75  # a batch is made smaller when so much of it is left: each time copies the memory
_CHECKED = 4  # words between two looks at a GPU, which must finish its work for one


class Hypotheses(NamedTuple):
    """K hypotheses for each of B images, with L tokens."""

    words: Tensor  # (B, K, L) ids, START first
    log_probabilities: Tensor  # (B, K, L - 1) nats
    totals: Tensor  # (B, K) nats


@dataclass(frozen=True)
class Open:
    """The images of a batch for which the search goes on."""

    images: Tensor  # (B,) their numbers
    hypotheses: Hypotheses
    state: State
    memory: Memory
    excluded: Tensor | None  # (B, X) ids

    def taken(self, images: Tensor) -> "Open":
        """Return some of the images, given by their place."""
        beams = self.state[0].size(1) // len(self.images)
        rows = (images.unsqueeze(1) * beams + torch.arange(beams, device=images.device)).flatten()
        return Open(
            self.images[images],
            Hypotheses(*select(self.hypotheses, 0, images)),
            select(self.state, 1, rows),
            select(self.memory, 0, images),
            None if self.excluded is None else self.excluded[images],
        )


Advance = Callable[[Open], Open]
"""Return images with hypotheses of one more word."""

AreOver = Callable[[Open], Tensor]
"""Return for which images (B,) nothing better can be found."""

Loop = Callable[[Open, Advance, AreOver, Rules], Hypotheses]
"""Advance images until all of them are over, and return their hypotheses, as `searched_images` does."""


def searched_images(open_images: Open, advance: Advance, are_over: AreOver, rules: Rules) -> Hypotheses:
    """Advance until all images are over; return the hypotheses of all, filled with PAD."""
    done: list[Open] = []
    for length in range(rules.options.max_words + 1):
        open_images = advance(open_images)
        on_gpu = open_images.images.device.type != "cpu"
        if on_gpu and (length + 1) % _CHECKED:
            continue
        over = are_over(open_images)
        left = len(over) - int(over.sum())
        if not left:
            break
        if not on_gpu and left <= _SMALLER * len(over):
            done.append(open_images.taken(over.nonzero().squeeze(1)))
            open_images = open_images.taken((~over).nonzero().squeeze(1))
    return _joined([*done, open_images], rules.options.beam_size)


def beam_search(
    score: Score, memory: Memory, state: State, rules: Rules, excluded: Tensor | None = None,
    loop: Loop = searched_images,
) -> BeamResult:  # fmt: skip
    """Search captions of B images, as `captioning.model.beam.beam_search` with one row of state per image.

    `excluded` (B, X) are words that an image's caption must not have, PAD for none.
    """
    begun = started(memory, state, excluded)
    found = loop(begun, lambda images: advanced(score, images, rules), is_over, rules)
    return ranked(found.words[..., 1:], found.log_probabilities, found.totals, rules.options)


def started(memory: Memory, state: State, excluded: Tensor | None) -> Open:
    """Return B images with one hypothesis each, without a word."""
    batch, device = state[0].size(1), state[0].device
    words = torch.full((batch, 1, 1), START, device=device)
    empty = Hypotheses(words, torch.zeros(batch, 1, 0, device=device), torch.zeros(batch, 1, device=device))
    return Open(torch.arange(batch, device=device), empty, state, memory, excluded)


def is_over(found: Open) -> Tensor:
    """Return for which images (B,) all hypotheses have ended, or can have no more words."""
    last = found.hypotheses.words[..., -1]
    return ((last == END) | (last == PAD)).all(-1)


def advanced(score: Score, found: Open, rules: Rules) -> Open:
    """Return the images with hypotheses of one more word. Nothing waits for a GPU, and no shape depends on a value."""
    before, beams = found.hypotheses, rules.options.beam_size
    logits, state = score(before.words[..., -1].flatten(), found.state, found.memory)
    next_words, log_probabilities, *_ = rules.candidates(logits, before.words, found.excluded, beams)
    scores = (before.totals.unsqueeze(-1) + log_probabilities).flatten(1)
    totals, flat = scores.topk(min(beams, scores.size(1)))
    parent = torch.div(flat, next_words.size(-1), rounding_mode="floor")
    word, chosen = next_words.flatten(1).gather(1, flat), log_probabilities.flatten(1).gather(1, flat)
    hypotheses = extended(before, parent, word, chosen, totals)
    return Open(found.images, hypotheses, moved(state, parent, before.words.size(1)), found.memory, found.excluded)


def extended(before: Hypotheses, parent: Tensor, word: Tensor, chosen: Tensor, totals: Tensor) -> Hypotheses:
    """Return hypotheses (B, K) that continue their parents with a word, or with PAD where none is possible."""
    impossible = ~(totals > IMPOSSIBLE)  # NaN too
    words = torch.cat([reorder(before.words, parent), word.masked_fill(impossible, PAD).unsqueeze(-1)], -1)
    log_probabilities = reorder(before.log_probabilities, parent)
    chosen = chosen.masked_fill(totals == IMPOSSIBLE, 0.0).unsqueeze(-1)
    return Hypotheses(words, torch.cat([log_probabilities, chosen], -1), totals)


def moved(state: State, parent: Tensor, beams: int) -> State:
    """Return the state of each parent (B, K) among the `beams` rows of its image."""
    first = beams * torch.arange(len(parent), device=parent.device).unsqueeze(1)
    return select(state, 1, (parent + first).flatten())


def _joined(parts: list[Open], beams: int) -> Hypotheses:
    """Return the hypotheses of images that were over at different lengths, in the order of the images."""
    length = parts[-1].hypotheses.words.size(-1)
    order = torch.argsort(torch.cat([part.images for part in parts]))
    filled = [_filled(part.hypotheses, beams, length) for part in parts]
    return Hypotheses(*(torch.cat(tensors)[order] for tensors in zip(*filled, strict=True)))


def _filled(part: Hypotheses, beams: int, length: int) -> Hypotheses:
    """Return hypotheses with more tokens, PAD, and more beams, impossible ones."""
    more, longer = max(0, beams - part.words.size(1)), length - part.words.size(-1)
    pad = torch.nn.functional.pad
    return Hypotheses(
        pad(part.words, (0, longer, 0, more), value=PAD),
        pad(part.log_probabilities, (0, longer, 0, more)),
        pad(part.totals, (0, more), value=IMPOSSIBLE),
    )
