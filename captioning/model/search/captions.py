"""Searches the captions of images: the decoder, the rules and the two searches put together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.model.beam import BeamResult, State
from captioning.model.concepts import Concepts
from captioning.model.decoder import CaptionDecoder, Memory
from captioning.model.gender import NeutralWords
from captioning.model.repeats import said_once
from captioning.model.search.beam import Loop, beam_search, searched_images
from captioning.model.search.constrained import constrained_search
from captioning.model.search.layers import SearchPrecision
from captioning.model.search.prepared import PreparedDecoder, select
from captioning.model.search.rules import NeutralGroups, Rules
from captioning.model.vocabulary import Vocabulary
from captioning.values import DecodeOptions


@dataclass(frozen=True)
class CaptionSearch:
    """What the searches of a model share. Several threads may search at once."""

    decoder: PreparedDecoder
    once: Tensor
    neutral: NeutralGroups | None
    loop: Loop = searched_images

    @classmethod
    def of(
        cls, decoder: CaptionDecoder, vocabulary: Vocabulary, neutral: NeutralWords | None,
        precision: SearchPrecision, loop: Loop = searched_images,
    ) -> "CaptionSearch":  # fmt: skip
        """Prepare a decoder, in evaluation mode, on the device where its weights are."""
        device = decoder.bias.device
        once = said_once(vocabulary).to(device)
        return cls(PreparedDecoder.of(decoder, precision), once, NeutralGroups.of(neutral, device), loop)

    def begin(
        self, features: Tensor, concepts: Concepts | None, excluded: Tensor | None, options: DecodeOptions
    ) -> "BatchSearch":
        """Encode images (B, N, F). `excluded` (B, X) are ids of words that an image's caption must not have, or PAD."""
        memory, state = self.decoder.start(features, concepts)
        rules = Rules(options, self.once, self.neutral)
        return BatchSearch(self.decoder, memory, state, rules, excluded, self.loop)


@dataclass(frozen=True)
class BatchSearch:
    """The searches of one batch, which share its encoded images."""

    decoder: PreparedDecoder
    memory: Memory
    state: State
    rules: Rules
    excluded: Tensor | None
    loop: Loop

    def best(self) -> BeamResult:
        """Search the captions of all images."""
        return beam_search(self.decoder.step, self.memory, self.state, self.rules, self.excluded, self.loop)

    def with_phrases(self, images: list[int], phrases: Tensor) -> BeamResult:
        """Search captions of some images that contain the phrase of each, see `constrained_search`."""
        rows = torch.tensor(images, device=self.state[0].device)
        excluded = None if self.excluded is None else self.excluded[rows]
        memory, state = select(self.memory, 0, rows), select(self.state, 1, rows)
        phrases = phrases.to(rows.device)
        return constrained_search(self.decoder.step, memory, state, phrases, self.rules, excluded, self.loop)
