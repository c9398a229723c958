"""Runtimes for the encoder: torch on CUDA or MPS, OpenVINO on a CPU, or torch on a CPU where OpenVINO is not available.

The decoder always runs in torch. Captions of two runtimes may differ in a word, so each row in the store names its
runtime.
"""

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from captioning.bundles import Bundle
from captioning.calibration import calibration_of
from captioning.errors import UsageError
from captioning.model.captioner import Captioner, GridEncoder
from captioning.model.compiled_encoder import CompiledEncoder
from captioning.model.demand import demand_of
from captioning.model.descriptions import preprocessing_of
from captioning.model.encoder import PixelsToGrid, fold_batch_norm
from captioning.model.gender import neutral_words
from captioning.model.int8 import int8_graph
from captioning.model.load_bundle import (
    absent_words,
    load_classifier,
    load_decoder,
    load_encoder,
    load_likeness,
    load_presence,
)
from captioning.model.openvino_encoder import EncoderSource, openvino_encoder, openvino_precision
from captioning.model.precision import EncoderPrecision, Precision, best_precision, torch_dtype
from captioning.model.search.beam import searched_images
from captioning.model.search.cuda_graph import CudaRecorder, GraphLoop
from captioning.model.search.layers import fastest_precision
from captioning.values import digest_of

_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cpu": ("bf16", "fp32"), "cuda": ("bf16", "fp16", "fp32"), "mps": ("fp16", "fp32"),
}  # fmt: skip


@dataclass(frozen=True)
class Runtime:
    """The library, device and precision that compute the encoder, and why they were chosen."""

    name: str  # torch or openvino
    device: str  # cpu, cuda:0, mps...
    precision: EncoderPrecision
    why: str
    compiles: bool = False  # the encoder is compiled, and the steps of the search are CUDA graphs

    @property
    def precisions(self) -> str:
        """The precisions of the encoder and of the search, such as "bf16+fp32"."""
        return f"{self.precision}+{fastest_precision(self.device)}"

    def for_bundle(self, bundle: Bundle) -> "Runtime":
        """Return the runtime of a bundle: int8 needs ranges in it, and without them floating point is used."""
        lacks_ranges = self.precision == "int8" and "int8" not in bundle.description
        return replace(self, precision=openvino_precision()) if lacks_ranges else self


def choose_runtime(
    runtime: str = "auto", device: str = "auto", precision: str = "auto", compiled: str = "off"
) -> Runtime:
    """Choose what computes the encoder. Raises UsageError when what is asked for is not available.

    `compiled` is `auto`, which is for CUDA only, or `off`.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device {device}: torch {torch.__version__} finds no CUDA GPU on this machine."
            " Set CAPTIONING_DEVICE to cpu or auto (or `worker --device`)."
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            f"device mps: torch {torch.__version__} finds no Apple GPU on this machine."
            " Set CAPTIONING_DEVICE to cpu or auto (or `worker --device`)."
        )
    if device == "auto" and runtime != "openvino":
        device = _fastest_device()
    if device.startswith(("cuda", "mps")):
        if runtime == "openvino":
            raise UsageError("OpenVINO runs only on the CPU: set CAPTIONING_RUNTIME (or `worker --runtime`) to auto.")
        if device == "mps":
            return _torch_runtime(device, precision, "this GPU is used: Apple's")
        device = device if ":" in device else f"{device}:0"
        chosen = _torch_runtime(device, precision, f"this GPU is used: {torch.cuda.get_device_name(device)}")
        return replace(chosen, compiles=compiled == "auto")
    has_openvino = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not has_openvino:
        raise UsageError(
            "OpenVINO is not installed: install it, or set CAPTIONING_RUNTIME (or `worker --runtime`) to auto."
        )
    if runtime == "torch" or not has_openvino:
        return _torch_runtime("cpu", precision, "requested" if runtime == "torch" else "OpenVINO is not installed")
    why = "requested" if runtime == "openvino" else "no GPU, and OpenVINO is the fastest on a CPU"
    return Runtime("openvino", "cpu", _checked(precision, ("int8", "bf16", "fp32"), "OpenVINO") or "int8", why)


def _fastest_device() -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _torch_runtime(device: str, precision: str, why: str) -> Runtime:
    wanted = _checked(precision, _PRECISIONS[device.partition(":")[0]], f"torch on {device}")
    return Runtime("torch", device, wanted or best_precision(device), why)


def _checked(precision: str, available: Sequence[EncoderPrecision], where: str) -> EncoderPrecision | None:
    """Return the precision that is asked for, None for `auto`. Raises UsageError for one that is not available."""
    if precision == "auto":
        return None
    found = next((one for one in available if one == precision), None)
    if found is None:
        *others, last = available
        raise UsageError(
            f"{where} does not compute the encoder in {precision}:"
            f" set CAPTIONING_PRECISION to auto, {', '.join(others)} or {last}."
        )
    return found


def load_captioner(
    bundle: Bundle, choice: Runtime, cache: Path | None = None, encode: GridEncoder | None = None
) -> Captioner:
    """Return a bundle's model, ready to run. Raises BundleError.

    `encode` is the encoder of a bundle with the same `encoder_key`, if one is loaded already. `cache` is a folder in
    which converted and compiled encoders are kept from one process to the next.
    """
    decoder, vocabulary = load_decoder(bundle)
    classifier = load_classifier(bundle, decoder, vocabulary)
    likeness, presence = load_likeness(bundle), load_presence(bundle)
    preprocessing = preprocessing_of(bundle)
    if encode is None:
        encode = make_grid_encoder(bundle, choice, cache)
    return Captioner(
        encode, decoder.to(choice.device), vocabulary, preprocessing, calibration_of(bundle.description),
        neutral_words(bundle, vocabulary), classifier and classifier.to(choice.device),
        demand_of(bundle, classifier, vocabulary), likeness and likeness.to(choice.device),
        presence and presence.to(choice.device), absent_words(bundle, vocabulary), fastest_precision(choice.device),
        GraphLoop(CudaRecorder(choice.device)) if choice.compiles else searched_images,
    )  # fmt: skip


def make_grid_encoder(bundle: Bundle, choice: Runtime, cache: Path | None = None) -> GridEncoder:
    """Return a bundle's encoder as a function of uint8 pixels (B, size, size, 3). Raises BundleError.

    `cache` is a folder in which converted and compiled encoders are kept from one process to the next.
    """
    load = functools.partial(load_encoder, bundle)
    if choice.name != "openvino":
        return _torch(load(), choice, cache)
    size, kept = preprocessing_of(bundle).size, cache / bundle.encoder_key if cache else None
    precision = choice.for_bundle(bundle).precision
    if precision != "int8":
        return openvino_encoder(EncoderSource(load, size, precision), kept)
    quantise, quantised = functools.partial(int8_graph, bundle=bundle), digest_of(bundle.description["int8"])
    return openvino_encoder(EncoderSource(load, size, "fp32", quantise, quantised), kept)


def optimize_for_inference(network: PixelsToGrid, device: str, precision: Precision) -> PixelsToGrid:
    """Return the encoder, changed in place, as torch runs it fastest on a device.

    Serving and the feature cache of training both use it: an optimisation of the encoder in torch belongs here.
    """
    fold_batch_norm(network.encoder)
    dtype = torch_dtype(precision)
    return network.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _torch(network: PixelsToGrid, choice: Runtime, cache: Path | None) -> GridEncoder:
    assert choice.precision != "int8"  # which only OpenVINO computes
    network = optimize_for_inference(network, choice.device, choice.precision)
    form = CompiledEncoder(network, choice.precision, cache) if choice.compiles else network
    device = torch.device(choice.device)

    def encode(pixels: Tensor) -> Tensor:
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        features: Tensor = form(pixels.to(device, non_blocking=device.type == "cuda"))
        return features.float()

    return encode
