"""Weights on disk: safetensors, with matrices as int8 and one scale per output row ("weight-only int8").

A float tensor is stored under its name, a quantised one as `name` (int8) and `name:scale` (float32, one per row).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioning.errors import BundleError

_SCALE = ":scale"


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors: those with two or more dimensions as int8, the others, which are small, as float32."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dim() >= 2:
            packed[name], packed[name + _SCALE] = _quantise(tensor.detach().float())
        elif tensor.is_floating_point():
            packed[name] = tensor.detach().float().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(packed, path)
    path.chmod(0o644)  # safetensors makes it readable by its owner only; a bundle is for everybody


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors as float32. Raises BundleError when the file is missing or damaged."""
    try:
        packed = load_file(path)
        return {name: _restore(name, packed) for name in packed if not name.endswith(_SCALE)}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise BundleError(f"cannot read the weights {path}: {message}. Reinstall or re-export the bundle.") from error


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 values and their scales. A row (first dimension) has steps of its largest magnitude / 127."""
    scale = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    rows = scale.view(-1, *[1] * (weight.dim() - 1))
    return (weight / rows).round().to(torch.int8).contiguous(), scale


def _restore(name: str, packed: Mapping[str, Tensor]) -> Tensor:
    """Return a tensor as float32.

    Raises ValueError for a scale of the wrong shape: its product with the tensor could take terabytes of memory.
    """
    tensor = packed[name]
    if tensor.is_complex():
        raise ValueError(f"{name} contains complex numbers")
    if tensor.dtype != torch.int8:
        return _finite(name, tensor.float())
    scale = packed.get(name + _SCALE)
    if scale is None or tensor.dim() < 1 or scale.shape != tensor.shape[:1]:
        raise ValueError(f"{name} does not have one scale per row")
    _finite(name, 128 * scale.float())  # int8 is finite, so only the few scales are checked, not the values
    return tensor.float() * scale.float().view(-1, *[1] * (tensor.dim() - 1))


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not tensor.isfinite().all():
        raise ValueError(f"{name} contains values that are not finite numbers")
    return tensor
