"""A decoder as a search uses it: the same module with layers that compute one word at a time."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from captioning.model.beam import IMPOSSIBLE
from captioning.model.concepts import ConceptAttention, Concepts
from captioning.model.decoder import CaptionDecoder, Memory, State
from captioning.model.search.best_words import BLOCK
from captioning.model.search.layers import (
    Linear,
    PreparedConcepts,
    PreparedLinear,
    PreparedRecurrence,
    SearchPrecision,
    linear_of,
)


@dataclass(frozen=True)
class PreparedDecoder:
    """A decoder that a search calls. Its weights are those of the decoder at the time when it was prepared."""

    decoder: CaptionDecoder
    words: Linear  # (R, E) -> (R, V), and columns of minus infinity up to a multiple of BLOCK

    @classmethod
    def of(cls, decoder: CaptionDecoder, precision: SearchPrecision) -> "PreparedDecoder":
        """Prepare a decoder of any kind. The decoder itself stays as it is."""
        with torch.inference_mode():
            shared = {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())}
            prepared = copy.deepcopy(decoder, cast("dict[int, object]", shared)).eval()
            if prepared.concepts is not None:
                prepared.concepts = cast("ConceptAttention", PreparedConcepts(prepared.concepts))
            for name, layer in list(prepared.named_modules()):
                if isinstance(layer, nn.LSTM | nn.GRU):
                    _replace(prepared, name, PreparedRecurrence(layer, precision))
                elif isinstance(layer, nn.Linear) and precision == "int8" and not name.startswith("concepts."):
                    _replace(prepared, name, PreparedLinear(layer))
            weight, bias = decoder.embedding.weight, decoder.bias
            missing = -len(bias) % BLOCK
            padded = torch.cat([weight, weight.new_zeros(missing, weight.size(1))])
            impossible = torch.cat([bias, bias.new_full((missing,), IMPOSSIBLE)])
            return cls(prepared, linear_of(padded, impossible, precision, decoder.vector_limit))

    def start(self, features: Tensor, concepts: Concepts | None = None) -> tuple[Memory, State]:
        """Encode images, as `CaptionDecoder.start`."""
        memory, state = self.decoder.start(features, concepts)
        return tuple(part.contiguous() for part in memory), state

    def step(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read one word per row (R,) -> logits of the next word (R, V and more), and the new state."""
        vector, state = self.decoder.read_word(words, state, memory)
        return self.words(vector), state


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of that with a name such as "concepts.query"."""
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, layer)


def select(parts: Sequence[Tensor], dim: int, rows: Tensor) -> tuple[Tensor, ...]:
    """Return rows of tensors along a dimension."""
    return tuple(part.index_select(dim, rows) for part in parts)
