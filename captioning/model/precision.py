"""The precision of the model's arithmetic on a device. `openvino_encoder` knows OpenVINO's."""

import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch.nn import functional as F  # noqa: N812, the usual name

Precision = Literal["bf16", "fp16", "fp32"]
"""Of numbers with a floating point."""

EncoderPrecision = Literal["int8", "bf16", "fp16", "fp32"]

_ROUNDS = 5  # of a measurement; the fastest counts, because other programs only make it slower
_CLEARLY = 1.2  # times as fast; a choice that changed from run to run would change captions


@cache
def best_precision(device: str) -> Precision:
    """Return the fastest precision of a device, for torch: `cpu`, `cuda`, `cuda:0` or `mps`.

    On Apple's GPUs it is the most exact one, because fp16 has not been tried there.
    A CPU may have instructions for bf16 that are slower than those for fp32, so that is measured.
    """
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "mps":
        return "fp32"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "fp32"
    return faster(_convolution(torch.float32), _convolution(torch.bfloat16))


def faster(fp32: Callable[[], object], bf16: Callable[[], object]) -> Precision:
    """Return bf16 if its function is clearly faster than that of fp32, of which the results are more exact."""
    slow, fast = float("inf"), float("inf")
    for function in (fp32, bf16):
        function()  # the first run compiles and allocates
    for _ in range(_ROUNDS):
        slow, fast = min(slow, _seconds(fp32)), min(fast, _seconds(bf16))
    return "bf16" if slow > _CLEARLY * fast else "fp32"


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _convolution(dtype: torch.dtype) -> Callable[[], object]:
    """Return a convolution of the encoder's fourth stage on four images."""
    images = torch.zeros(4, 256, 14, 14, dtype=dtype).to(memory_format=torch.channels_last)
    weights = torch.zeros(256, 256, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode():
            return F.conv2d(images, weights, padding=1)

    return run


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return torch's type for a precision."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
