"""Encoders on disk, between runs: a folder with `encoder.safetensors` and `encoder.json` (stride, origin)."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from captioning.bundles import file_digest, find_bundles, read_bundle
from captioning.errors import BundleError, UsageError
from captioning.model.encoder import PixelsToGrid, ResNetEncoder
from captioning.model.pixels import Preprocessing
from captioning.model.weights import load_weights, save_weights

WEIGHTS, ABOUT = "encoder.safetensors", "encoder.json"
IMAGENET = {
    "imagenet-v1": "IMAGENET1K_V1",
    "imagenet-v2": "IMAGENET1K_V2",
}  # torchvision's; V2 moves more between near-identical images


@dataclass(frozen=True)
class EncoderFile:
    """An encoder that training can start from."""

    weights: Path
    about: dict[str, Any]  # stride, origin, and how it was tuned
    name: str = ""  # what opens it again: a folder, or a model's name

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return file_digest(self.weights)

    def load(self) -> PixelsToGrid:
        """Return the encoder in evaluation mode, in float32."""
        encoder = ResNetEncoder(self.about["stride"])
        missing, unexpected = encoder.load_state_dict(load_weights(self.weights), strict=False)
        wrong = [n for n in [*missing, *unexpected] if not n.endswith("num_batches_tracked")]
        if wrong:
            raise UsageError(f"{self.weights} is not a ResNet50 backbone; it differs in {', '.join(wrong[:5])}.")
        plain = Preprocessing()
        return PixelsToGrid(encoder.eval(), plain.mean, plain.std).eval()


def open_encoder(
    path: Path, stride: str | None, cache: Path, folders: Sequence[Path] = (), origin: str | None = None
) -> EncoderFile:
    """Return an encoder: a run that tuned one, a model at hand, a safetensors file, or a name in IMAGENET (downloaded).

    A bare file doesn't say where its stride sits, so `stride` must, nor where it is from, so `origin` may; what is
    used is a copy in the cache, in the form in which encoders are shipped. `folders` hold bundles, besides those built
    in. Raises UsageError when it can't be used.
    """
    if str(path) in IMAGENET:
        return _imagenet(str(path), cache)
    bundles = {str(path): read_bundle(path)} if (path / "bundle.json").exists() else find_bundles(folders)
    if (bundle := bundles.get(str(path))) is not None:
        return EncoderFile(bundle.encoder_file, bundle.description["provenance"]["encoder"], str(path))
    if (path / ABOUT).exists():
        return _opened(path)
    if not path.is_file():
        raise UsageError(
            f"no encoder at {path}: give a run that tuned one, a model, a safetensors file, or {' or '.join(IMAGENET)}."
        )
    if stride not in ("1x1", "3x3"):
        raise UsageError(
            f"{path.name} doesn't say where its stride sits: add --stride 1x1 (He 2015) or 3x3 (torchvision)."
        )
    file = _in_shipped_form(path, stride, cache)
    return replace(file, about=file.about | {"origin": origin or path.name})


def save_encoder(encoder: ResNetEncoder, about: dict[str, Any], folder: Path) -> EncoderFile:
    """Write an encoder as it will be shipped: decoders then learn from exactly what serving sees."""
    tensors = {n: t for n, t in encoder.state_dict().items() if not n.endswith("num_batches_tracked")}
    save_weights(tensors, folder / WEIGHTS)
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    return _opened(folder)


def _opened(folder: Path) -> EncoderFile:
    return EncoderFile(folder / WEIGHTS, json.loads((folder / ABOUT).read_text()), str(folder))


def _in_shipped_form(path: Path, stride: str, cache: Path) -> EncoderFile:
    """Return a bare backbone as an encoder of ours: int8, without head and counters, whatever the file had."""
    folder = cache / f"encoder-{file_digest(path)[:16]}-{stride}"
    if (folder / ABOUT).exists():
        return _opened(folder)
    try:
        state = load_weights(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except (BundleError, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UsageError(f"{path} can't be read as weights: {error}") from error
    known = {n: t for n, t in state.items() if not n.startswith("fc.") and not n.endswith("num_batches_tracked")}
    encoder = ResNetEncoder("1x1" if stride == "1x1" else "3x3")
    expected = {n: t for n, t in encoder.state_dict().items() if not n.endswith("num_batches_tracked")}
    wrong = [n for n in expected if n not in known or known[n].shape != expected[n].shape]
    wrong += [n for n in known if n not in expected]
    if wrong:
        raise UsageError(f"{path} is not a ResNet50 backbone; it differs in {', '.join(wrong[:5])}.")
    encoder.load_state_dict(known, strict=False)
    folder.mkdir(parents=True, exist_ok=True)
    return save_encoder(encoder, {"stride": stride}, folder)


def _imagenet(name: str, cache: Path) -> EncoderFile:
    """Fetch torchvision's ResNet50."""
    from torchvision.models import ResNet50_Weights

    folder = cache / name
    if not (folder / ABOUT).exists():
        try:
            state = ResNet50_Weights[IMAGENET[name]].get_state_dict(check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"can't download torchvision's ResNet50: {error}. Give --encoder a file.") from error
        encoder = ResNetEncoder("3x3")
        encoder.load_state_dict({n: t for n, t in state.items() if not n.startswith("fc.")})
        return save_encoder(encoder, {"stride": "3x3", "origin": f"torchvision ResNet50 {IMAGENET[name]}"}, folder)
    return _opened(folder)
