"""The precision of the model's arithmetic on a device. `openvino_encoder` knows OpenVINO's."""

from typing import Literal

import torch

Precision = Literal["bf16", "fp16", "fp32"]


def best_precision(device: str) -> Precision:
    """Return the fastest precision that a device computes in hardware: `cpu`, `cuda` or `cuda:0`, for torch."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return torch's type for a precision."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
