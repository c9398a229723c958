"""The encoder in OpenVINO, on a CPU. The only module that imports OpenVINO: without its telemetry."""

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioning import atomic
from captioning.model.encoder import PixelsToGrid, fold_batch_norm
from captioning.model.precision import Precision

log = logging.getLogger(__name__)


def import_openvino() -> Any:
    """Return the package `openvino`. Another package that imports it or its telemetry, such as NNCF, is imported later.

    On import it would send an event to Google Analytics and write to ~/intel. It does neither when its package
    `openvino_telemetry` cannot be imported, and then uses a stub of its own.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to forbid an import
    import openvino

    return openvino


def openvino_precision() -> Precision:
    """Return the fastest precision that OpenVINO computes on this CPU; it may know instructions that torch does not."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "fp32"


def openvino_encoder(
    load: Callable[[], PixelsToGrid], size: int, precision: Precision, cache: Path | None
) -> Callable[[Tensor], Tensor]:
    """Return the encoder as a function of uint8 pixels (B, size, size, 3). `cache` is that of `converted_encoder`."""
    return compiled_encoder(converted_encoder(load, size, cache), precision)


def converted_encoder(load: Callable[[], PixelsToGrid], size: int, cache: Path | None) -> Any:
    """Return the encoder as an OpenVINO graph, for any number of images of one size.

    `cache` is the prefix of the folder in which the converted network is stored; without one, and when the folder
    cannot be written or read, the network is converted each time. `load` is called unless it is stored.
    """
    return _converted(load(), size) if cache is None else _cached(import_openvino().Core(), load, size, cache)


def compiled_encoder(graph: Any, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Return an encoder's graph as a function of uint8 pixels (B, size, size, 3).

    What the graph quantises is computed in int8, the rest in `precision`.
    """
    hints = {"INFERENCE_PRECISION_HINT": precision.replace("fp32", "f32"), "NUM_STREAMS": 1}
    compiled: Any = import_openvino().Core().compile_model(graph, "CPU", hints)

    def encode(pixels: Tensor) -> Tensor:
        features = compiled(pixels.numpy(), share_inputs=True)[0]
        return torch.from_numpy(features.copy())

    return encode


def _cached(core: Any, load: Callable[[], PixelsToGrid], size: int, cache: Path) -> Any:
    """Return the converted network from its folder; convert it and create the folder when it is not there."""
    openvino = import_openvino()
    folder = cache.with_name(f"{cache.name}-{size}-{openvino.__version__.partition('-')[0]}")
    file = folder / "encoder.xml"
    if file.exists():
        try:
            return core.read_model(file)
        except (OSError, RuntimeError):  # OpenVINO's own is a RuntimeError that names no cause
            log.warning("the converted model in %s cannot be read, so each start takes longer: delete it", folder)
            return _converted(load(), size)
    graph = _converted(load(), size)
    try:
        with atomic.new_folder(folder) as unfinished:  # two workers may do this at once
            openvino.save_model(graph, unfinished / file.name)
        return core.read_model(file)
    except (OSError, RuntimeError) as error:
        message = (
            "the converted model cannot be kept in %s (%s): the worker goes on without it and each start takes longer"
        )
        log.warning(message, folder, why_not_written(error, folder.parent))
        return graph


def why_not_written(error: Exception, folder: Path) -> str:
    """Return the system's reason, or the free space where OpenVINO only reports an error of its stream."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free on its disk"
    except OSError as unknown:
        return unknown.strerror or type(unknown).__name__


def _converted(network: PixelsToGrid, size: int) -> Any:
    """Return the encoder as an OpenVINO graph for any number of images of one size."""
    fold_batch_norm(network.encoder)
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    return import_openvino().convert_model(program)
