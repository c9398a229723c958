"""What computes the encoder: torch on CUDA, OpenVINO on a CPU, torch on a CPU where OpenVINO can't.

The decoder always runs in torch. Captions may differ in a word between runtimes; each row says which made it.
"""

import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioning.bundles import Bundle
from captioning.calibration import calibration_of
from captioning.errors import UsageError
from captioning.model.captioner import Captioner, GridEncoder, load_decoder, load_encoder, preprocessing_of
from captioning.model.encoder import PixelsToGrid, fold_batch_norm


@dataclass(frozen=True)
class Runtime:
    """A choice of what computes, and why."""

    name: str  # torch or openvino
    device: str  # cpu, cuda:0...
    precision: str  # of the encoder's arithmetic: bf16, fp16 or fp32
    why: str


def choose(runtime: str = "auto", device: str = "auto") -> Runtime:
    """Pick what computes. Raises UsageError when what was asked for isn't there."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device}: torch {torch.__version__} sees no CUDA GPU here. Use --device cpu or auto.")
    if device == "auto" and runtime != "openvino" and torch.cuda.is_available():
        device = "cuda:0"
    if device.startswith("cuda"):
        if runtime == "openvino":
            raise UsageError("OpenVINO runs on the CPU here: leave out --runtime, or use --device cpu.")
        device = device if ":" in device else f"{device}:0"
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return Runtime("torch", device, precision, f"a GPU is here: {torch.cuda.get_device_name(device)}")
    has_openvino = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not has_openvino:
        raise UsageError("OpenVINO is not installed: pip install openvino, or use --runtime torch.")
    bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if runtime == "torch" or not has_openvino:
        why = "asked for" if runtime == "torch" else "OpenVINO is not installed"
        return Runtime("torch", "cpu", "bf16" if bf16 else "fp32", why)
    why = "asked for" if runtime == "openvino" else "no GPU, and OpenVINO is the fastest on a CPU"
    return Runtime("openvino", "cpu", _openvino_precision(), why)


def load_captioner(
    bundle: Bundle, choice: Runtime, cache: Path | None = None, encode: GridEncoder | None = None
) -> Captioner:
    """Return a bundle's model, ready to run; `encode` is its encoder if that is loaded already. Raises BundleError.

    `cache`: see `make_grid_encoder`.
    """
    decoder, vocabulary = load_decoder(bundle)
    preprocessing = preprocessing_of(bundle)
    encode = encode or make_grid_encoder(load_encoder(bundle), choice, cache)
    return Captioner(encode, decoder.to(choice.device), vocabulary, preprocessing, calibration_of(bundle.description))


def make_grid_encoder(network: PixelsToGrid, choice: Runtime, cache: Path | None = None) -> GridEncoder:
    """Return the encoder as a function on uint8 pixels. At `cache`, a path of its own, OpenVINO's form may be kept."""
    fold_batch_norm(network.encoder)
    return _openvino(network, choice, cache) if choice.name == "openvino" else _torch(network, choice)


def _torch(network: PixelsToGrid, choice: Runtime) -> GridEncoder:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[choice.precision]
    network = network.to(choice.device, kind, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(pixels: Tensor) -> Tensor:
        if choice.device != "cpu":
            pixels = pixels.pin_memory().to(choice.device, non_blocking=True)
        features: Tensor = network(pixels)
        return features.float()

    return encode


def _openvino_precision() -> str:
    import openvino

    core = openvino.Core()
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


def _openvino(network: PixelsToGrid, choice: Runtime, cache: Path | None) -> GridEncoder:
    import openvino

    core = openvino.Core()
    if cache is None:
        graph = _converted(network)
    else:
        folder = cache.with_name(f"{cache.name}-{openvino.__version__.partition('-')[0]}")
        if not (folder / "encoder.xml").exists():
            _save(_converted(network), folder)
        graph = core.read_model(folder / "encoder.xml")
    precision = choice.precision.replace("fp32", "f32")
    compiled: Any = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1})

    def encode(pixels: Tensor) -> Tensor:
        found = compiled(pixels.numpy(), share_inputs=True)[0]
        return torch.from_numpy(found.copy())

    return encode


def _converted(network: PixelsToGrid) -> Any:
    """Return the encoder as an OpenVINO graph for any number of images."""
    import openvino

    example = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    return openvino.convert_model(program)


def _save(graph: Any, folder: Path) -> None:
    """Keep a graph, half the start-up of the next worker. It appears whole: two workers may save at once."""
    import openvino

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    openvino.save_model(graph, unfinished / "encoder.xml")
    try:
        unfinished.replace(folder)
    except OSError:  # the other was first
        shutil.rmtree(unfinished)
