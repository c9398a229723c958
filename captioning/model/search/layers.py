"""Layers that compute one word at a time: in int8 on a CPU with VNNI, else in the precision of their weights.

Weights have one scale per output row, as in a bundle's file, so int8 changes nothing there. Inputs have one scale per
row, and so a caption does not depend on the other images of its batch.
"""

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

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

    `limit` is what no number in x exceeds. Where it is known, x need not be looked through for its largest.
    """
    return _int8(weight, bias, limit) if precision == "int8" else lambda x: F.linear(x, weight, bias)


def _int8(weight: Tensor, bias: Tensor, limit: float | None = None) -> Linear:
    scale = weight.abs().amax(1).clamp(min=_SMALLEST) / _LEVELS
    quantised = (weight / scale.unsqueeze(1)).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(quantised, None)
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    multiply = torch.ops.onednn.qlinear_pointwise
    bias = bias.detach()

    def limited(x: Tensor) -> Tensor:
        levels = (x * (_LEVELS / limit)).round_().add_(_ZERO).to(torch.uint8)
        return multiply(levels, limit / _LEVELS, _ZERO, packed, scale, zeros, bias, 1.0, 0, torch.float32, "none", [], "")

    def linear(x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST) / _LEVELS
        levels = (x / step).round_().add_(_ZERO).to(torch.uint8)
        product = multiply(levels, 1.0, _ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return torch.addcmul(bias, product, step)

    return linear if limit is None else limited


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
        of_input, of_hidden, input_bias, hidden_bias = layer.all_weights[0]
        self._input = linear_of(of_input, input_bias, precision)
        self._hidden = linear_of(of_hidden, hidden_bias, precision)
        self._is_lstm = isinstance(layer, nn.LSTM)

    def forward(
        self, inputs: Tensor, state: Tensor | tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """Read (R, 1, D) after a state (1, R, H), for an LSTM two: return the hidden state (R, 1, H) and the state."""
        after = self._lstm(inputs[:, 0], *state) if self._is_lstm else self._gru(inputs[:, 0], state)
        hidden = after[0] if isinstance(after, tuple) else after
        return hidden.transpose(0, 1), after

    def _lstm(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        gates = self._input(x).add_(self._hidden(hidden[0]))
        into, forget, new, out = gates.chunk(4, -1)
        after = cell[0] * torch.sigmoid(forget)
        after.addcmul_(torch.sigmoid(into), torch.tanh(new))
        return (torch.sigmoid(out) * torch.tanh(after)).unsqueeze(0), after.unsqueeze(0)

    def _gru(self, x: Tensor, hidden: Tensor) -> Tensor:
        of_input, of_hidden = self._input(x), self._hidden(hidden[0])
        size = hidden.size(-1)
        reset, keep = torch.sigmoid(of_input[:, : 2 * size] + of_hidden[:, : 2 * size]).chunk(2, -1)
        new = torch.tanh(torch.addcmul(of_input[:, 2 * size :], reset, of_hidden[:, 2 * size :]))
        return torch.lerp(new, hidden[0], keep).unsqueeze(0)
