"""Layers that compute one word at a time: in int8 on a CPU with VNNI, else in the precision of their weights.

Weights have one scale per output row, as in a bundle's file, so int8 changes nothing there. Inputs have one scale per
row, and so a caption does not depend on the other images of its batch.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

from captioning.model.concepts import ConceptAttention

Linear = Callable[[Tensor], Tensor]
"""(..., D) -> (..., O)."""

SearchPrecision = Literal["int8", "fp32"]

_LEVELS = 127  # of an int8 value, on either side of 0
_ZERO = 128  # what 0 is among the uint8 values that the CPU's instruction reads
_SMALLEST = 1e-12  # scale of a row of zeros

log = logging.getLogger(__name__)


def fastest_precision(device: str) -> SearchPrecision:
    """Return int8 for a CPU that multiplies int8 without overflow (VNNI in AVX-512), else fp32."""
    if device != "cpu" or not torch.cpu.get_capabilities().get("avx512_vnni", False):
        return "fp32"
    try:
        _int8(torch.ones(16, 16), torch.zeros(16))(torch.ones(1, 16))
    except (RuntimeError, AttributeError, NotImplementedError) as error:  # a torch that was built without them
        log.warning("this torch cannot multiply int8 on this CPU, so captions take longer: %s", error)
        return "fp32"
    return "int8"


def linear_of(weight: Tensor, bias: Tensor, precision: SearchPrecision, limit: float | None = None) -> Linear:
    """Return x -> x @ weight.T + bias, for weights (O, D) and a bias (O,).

    `limit` is what no number in x exceeds. Where it is known, the largest number of a row is not looked for.
    """
    if precision == "fp32":
        return lambda x: F.linear(x, weight, bias)
    return _int8(weight, bias) if limit is None else _limited_int8(weight, bias, limit)


def _int8(weight: Tensor, bias: Tensor) -> Linear:
    multiply, bias = _int8_product(weight), bias.detach()

    def linear(x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST) / _LEVELS
        return torch.addcmul(bias, multiply(x / step, 1.0, None), step)

    return linear


def _limited_int8(weight: Tensor, bias: Tensor, limit: float) -> Linear:
    multiply, bias, step = _int8_product(weight), bias.detach(), limit / _LEVELS

    def linear(x: Tensor) -> Tensor:
        product = multiply(x / step, step, bias)
        product[..., 0] += 0 * x.sum(-1)  # a row with NaN must not look like a row of integers
        return product

    return linear


def _int8_product(weight: Tensor) -> Callable[[Tensor, float, Tensor | None], Tensor]:
    """Return (x, step, bias) -> step * (x rounded to -127 to 127) @ weight.T + bias."""
    scale = weight.detach().abs().amax(1).clamp(min=_SMALLEST) / _LEVELS
    quantised = (weight.detach() / scale.unsqueeze(1)).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(quantised, None)
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    operation = torch.ops.onednn.qlinear_pointwise

    def multiply(x: Tensor, step: float, bias: Tensor | None) -> Tensor:
        levels = x.round().add_(_ZERO).to(torch.uint8)  # with signed ones the operation takes a hundred times as long
        product: Tensor = operation(
            levels, step, _ZERO, packed, scale, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return product

    return multiply


class PreparedLinear(nn.Module):
    """A linear layer in int8."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
        self._linear = linear_of(layer.weight, bias, "int8")

    def forward(self, x: Tensor) -> Tensor:
        """Compute (..., D) -> (..., O)."""
        return self._linear(x)


class PreparedRecurrence(nn.Module):
    """A recurrent layer that reads one word: it takes and returns what `nn.LSTM` and `nn.GRU` do, for T = 1.

    On a CPU those arrange their weights anew at each call, which takes several times as long as the step itself.
    """

    def __init__(self, layer: nn.LSTM | nn.GRU, precision: SearchPrecision) -> None:
        super().__init__()
        self._weights = of_input, of_hidden, input_bias, hidden_bias = layer.all_weights[0]
        self._in_int8 = precision == "int8"
        if self._in_int8:
            self._input, self._hidden = _int8(of_input, input_bias), _int8(of_hidden, hidden_bias)

    def forward(self, inputs: Tensor, state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """Read (R, 1, D) after a state (1, R, H), for an LSTM two: return the hidden state (R, 1, H) and the state."""
        word = inputs[:, 0]
        if isinstance(state, tuple):
            hidden, cell = self._lstm(word, state[0][0], state[1][0])
            return hidden.unsqueeze(1), (hidden.unsqueeze(0), cell.unsqueeze(0))
        hidden = self._gru(word, state[0])
        return hidden.unsqueeze(1), hidden.unsqueeze(0)

    def _lstm(self, word: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        if not self._in_int8:
            return torch.lstm_cell(word, (hidden, cell), *self._weights)
        into, forget, new, out = self._input(word).add_(self._hidden(hidden)).chunk(4, -1)
        after = torch.sigmoid(forget) * cell
        after.addcmul_(torch.sigmoid(into), torch.tanh(new))
        return torch.sigmoid(out) * torch.tanh(after), after

    def _gru(self, word: Tensor, hidden: Tensor) -> Tensor:
        if not self._in_int8:
            return torch.gru_cell(word, hidden, *self._weights)
        of_input, of_hidden = self._input(word), self._hidden(hidden)
        both = 2 * hidden.size(-1)  # gates come first
        reset, keep = torch.sigmoid(of_input[:, :both] + of_hidden[:, :both]).chunk(2, -1)
        new = torch.tanh(torch.addcmul(of_input[:, both:], reset, of_hidden[:, both:]))
        return torch.lerp(new, hidden, keep)


class PreparedConcepts(nn.Module):
    """A `ConceptAttention` that reads one word: what follows from the concepts alone is computed once per image.

    The scores are linear in the hidden state, so queries are not needed. Attending to nothing is one more concept.
    """

    def __init__(self, layer: ConceptAttention) -> None:
        super().__init__()
        self._layer = layer
        self.first_state = layer.first_state

    def encode(self, embedded: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the memory (B, H, K + 1), (B, K + 1, E), (B, 1, K + 1) of concepts (B, K, E) and weights (B, K)."""
        keys, values, scores = self._layer.encode(embedded, weights)
        query, none = self._layer.query, self._layer.none.expand(len(keys), 1)
        keys = keys / keys.size(-1) ** 0.5
        of_hidden, of_bias = keys @ query.weight, keys @ query.bias
        scores = torch.cat([scores + of_bias, none], -1).unsqueeze(1)
        of_hidden, values = (F.pad(part, (0, 0, 0, 1)) for part in (of_hidden, self._layer.strength * values))
        return of_hidden.transpose(1, 2), values, scores

    def forward(self, hidden: Tensor, memory: Sequence[Tensor]) -> Tensor:
        """Return what is added to the vector that is compared with words: (R, 1, H) -> (R, 1, E)."""
        keys, values, scores = memory
        queries = hidden.view(len(keys), -1, hidden.size(-1))
        copied = torch.softmax(torch.baddbmm(scores, queries, keys), -1) @ values
        return copied.view(len(hidden), 1, -1)
