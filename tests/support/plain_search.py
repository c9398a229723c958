"""The plain searches, put together as a captioner does it: what faster ones are compared with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.model.beam import BeamResult, State, Step, beam_search
from captioning.model.concepts import Concepts
from captioning.model.constrained import constrained_search
from captioning.model.decoder import CaptionDecoder, Memory
from captioning.model.gender import NeutralWords
from captioning.values import DecodeOptions


@dataclass(frozen=True)
class PlainSearch:
    """`CaptionSearch` with `captioning.model.beam`, `captioning.model.constrained` and the decoder as it is."""

    decoder: CaptionDecoder
    once: Tensor | None
    neutral: NeutralWords | None

    def begin(
        self, features: Tensor, concepts: Concepts | None, excluded: Tensor | None, options: DecodeOptions
    ) -> "PlainBatch":
        memory, state = self.decoder.start(features, concepts)
        if excluded is not None:
            excluded = torch.zeros(len(features), len(self.decoder.bias), dtype=torch.bool).scatter(1, excluded, True)
        return PlainBatch(self, memory, state, excluded, options)


@dataclass(frozen=True)
class PlainBatch:
    search: PlainSearch
    memory: Memory
    state: State
    excluded: Tensor | None  # (B, V) which words must not come
    options: DecodeOptions

    def best(self) -> BeamResult:
        return beam_search(self._step(self.memory, self.excluded), self.state, self.options, self.search.once)

    def with_phrases(self, images: list[int], phrases: Tensor) -> BeamResult:
        memory, state = tuple(part[images] for part in self.memory), tuple(part[:, images] for part in self.state)
        step = self._step(memory, None if self.excluded is None else self.excluded[images])
        return constrained_search(step, state, phrases, self.options, self.search.once)

    def _step(self, memory: Memory, excluded: Tensor | None) -> Step:
        def step(words: Tensor, state: State) -> tuple[Tensor, State]:
            logp, state = self.search.decoder.step(words, state, memory)
            if self.search.neutral is not None:
                logp = self.search.neutral.apply(logp)
            if excluded is not None:
                of_images = logp.view(len(excluded), -1, logp.size(-1))
                logp = of_images.masked_fill(excluded.unsqueeze(1), float("-inf")).view_as(logp)
            return logp, state

        return step


def same_hypotheses(found: BeamResult, expected: BeamResult, ties: float = 1e-4) -> Tensor:
    """Return for which of B images two searches found the same, the order of scores closer than `ties` aside."""
    length = max(found.words.size(-1), expected.words.size(-1))
    words, other = (torch.nn.functional.pad(r.words, (0, length - r.words.size(-1))) for r in (found, expected))
    alike = torch.isclose(found.scores, expected.scores, atol=ties, rtol=ties)
    possible = expected.scores > float("-inf")
    apart = torch.ones_like(possible)
    apart[:, 1:] &= expected.scores.diff(dim=1).abs() > ties
    apart[:, :-1] &= expected.scores.diff(dim=1).abs() > ties
    return (alike & ((words == other).all(-1) | ~apart | ~possible)).all(1)
