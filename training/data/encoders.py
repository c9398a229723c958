"""Encoder files: folders with `encoder.safetensors` and `encoder.json` (stride, origin)."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioning.atomic import replacing, write_text
from captioning.bundles import file_digest, find_bundles, read_bundle
from captioning.errors import BundleError, UsageError
from captioning.model.encoder import PixelsToGrid, ResNetEncoder
from captioning.model.pixels import Preprocessing
from captioning.model.weights import load_weights, save_weights

WEIGHTS, ABOUT = "encoder.safetensors", "encoder.json"
IMAGENET = {
    "imagenet-v1": "IMAGENET1K_V1",
    "imagenet-v2": "IMAGENET1K_V2",
}
"""Torchvision's names of ResNet50 weights, keyed by the names that --encoder accepts."""


@dataclass(frozen=True)
class EncoderFile:
    """An encoder that training can start from."""

    weights: Path
    about: dict[str, Any]  # stride, origin, and how it was tuned
    name: str = ""  # what `open_encoder` opens it by: a folder, or the name of a model

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return file_digest(self.weights)

    def load(self) -> PixelsToGrid:
        """Return the encoder in evaluation mode, in float32."""
        encoder = ResNetEncoder(self.about["stride"])
        missing, unexpected = encoder.load_state_dict(load_weights(self.weights), strict=False)
        wrong = [name for name in [*missing, *unexpected] if not _is_counter(name)]
        if wrong:
            raise _not_a_backbone(self.weights, wrong)
        preprocessing = Preprocessing()
        return PixelsToGrid(encoder.eval(), preprocessing.mean, preprocessing.std).eval()


def open_encoder(
    path: Path, stride: str | None, cache: Path, folders: Sequence[Path] = (), origin: str | None = None
) -> EncoderFile:
    """Return an encoder: that of a run that tuned one, of a model, a safetensors file, or a name in IMAGENET.

    A bare weight file does not say which convolution has the stride, so it needs `stride`; `origin` says where it is
    from. It is converted to the form that bundles ship, and the copy in the cache is used. `folders` hold bundles,
    besides the built-in ones. An IMAGENET encoder is downloaded. Raises UsageError when the encoder cannot be used.
    """
    if str(path) in IMAGENET:
        return _open_imagenet(str(path), cache)
    bundles = {str(path): read_bundle(path)} if (path / "bundle.json").exists() else find_bundles(folders)
    if (bundle := bundles.get(str(path))) is not None:
        return EncoderFile(bundle.encoder_file, bundle.description["provenance"]["encoder"], str(path))
    if (path / ABOUT).exists():
        return _open_folder(path)
    if not path.is_file():
        raise UsageError(
            f"no encoder at {path}: give a run that tuned one, a model, a safetensors file, or {' or '.join(IMAGENET)}."
        )
    if stride not in ("1x1", "3x3"):
        raise UsageError(
            f"{path.name} does not say which convolution has the stride: add --stride 1x1 (He 2015) or --stride 3x3"
            " (torchvision)."
        )
    file = _convert(path, stride, cache)
    return replace(file, about=file.about | {"origin": origin or path.name})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of one that torch saved. Raises UsageError when it is neither."""
    if not path.is_file():
        raise UsageError(f"no file {path}: give a file of weights, safetensors or saved by torch.")
    try:
        state = load_weights(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except (BundleError, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict):
        raise UsageError(f"{path} contains no weights: give a file of named tensors.")
    return state


def save_encoder(encoder: ResNetEncoder, about: dict[str, Any], folder: Path) -> EncoderFile:
    """Write an encoder in the form that bundles ship, so that decoders learn from exactly what serving computes."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS, mode=0o644) as unfinished:
        save_weights(_without_counters(encoder.state_dict()), unfinished)
    write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    return _open_folder(folder)


def _open_folder(folder: Path) -> EncoderFile:
    return EncoderFile(folder / WEIGHTS, json.loads((folder / ABOUT).read_text()), str(folder))


def _convert(path: Path, stride: str, cache: Path) -> EncoderFile:
    """Convert a bare backbone to the form that bundles ship: int8, without the classifier and the batch counters."""
    folder = cache / f"encoder-{file_digest(path)[:16]}-{stride}"
    if (folder / ABOUT).exists():
        return _open_folder(folder)
    state = read_weights(path)
    known = _without_counters({name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    encoder = ResNetEncoder("1x1" if stride == "1x1" else "3x3")
    expected = _without_counters(encoder.state_dict())
    wrong = [name for name in expected if name not in known or known[name].shape != expected[name].shape]
    wrong += [name for name in known if name not in expected]
    if wrong:
        raise _not_a_backbone(path, wrong)
    encoder.load_state_dict(known, strict=False)
    return save_encoder(encoder, {"stride": stride}, folder)


def _open_imagenet(name: str, cache: Path) -> EncoderFile:
    """Return torchvision's ResNet50 from the cache, or download it."""
    from torchvision.models import ResNet50_Weights

    folder = cache / name
    if (folder / ABOUT).exists():
        return _open_folder(folder)
    try:
        state = ResNet50_Weights[IMAGENET[name]].get_state_dict(check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot download torchvision's ResNet50: {error}. Give --encoder a file.") from error
    encoder = ResNetEncoder("3x3")
    encoder.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    return save_encoder(encoder, {"stride": "3x3", "origin": f"torchvision ResNet50 {IMAGENET[name]}"}, folder)


def _is_counter(name: str) -> bool:
    """Return whether a tensor counts the batches of a batch norm; only training reads it."""
    return name.endswith("num_batches_tracked")


def _without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not _is_counter(name)}


def _not_a_backbone(path: Path, wrong: Sequence[str]) -> UsageError:
    return UsageError(f"{path} is not a ResNet50 backbone; it differs in {', '.join(wrong[:5])}.")
