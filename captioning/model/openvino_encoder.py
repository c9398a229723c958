"""The encoder in OpenVINO, on a CPU. The only module that imports OpenVINO: without its telemetry."""

import contextlib
import functools
import logging
import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioning import atomic
from captioning.model.encoder import PixelsToGrid, fold_batch_norm
from captioning.model.precision import Precision, faster
from captioning.values import digest_of

log = logging.getLogger(__name__)


def import_openvino() -> Any:
    """Return the package `openvino`. Another package that imports it or its telemetry, such as NNCF, is imported later.

    On import it would send an event to Google Analytics and write to ~/intel. It does neither when its package
    `openvino_telemetry` cannot be imported, and then uses a stub of its own.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to forbid an import
    import openvino

    return openvino


@functools.cache
def openvino_precision() -> Precision:
    """Return the fastest precision with a floating point that OpenVINO has on this CPU.

    It may know instructions that torch does not. Those for bf16 may be slower than those for fp32.
    """
    core = import_openvino().Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "fp32"
    return faster(_convolution(core, "fp32"), _convolution(core, "bf16"))


def _convolution(core: Any, precision: Precision) -> Callable[[], object]:
    """Return a convolution of the encoder's fourth stage on four images."""
    openvino = import_openvino()
    images = openvino.opset13.parameter([4, 256, 14, 14], np.float32)
    weights = openvino.opset13.constant(np.zeros((256, 256, 3, 3), np.float32))
    result = openvino.opset13.convolution(images, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    compiled = core.compile_model(openvino.Model([result], [images]), "CPU", _hints(precision))
    zeros = np.zeros((4, 256, 14, 14), np.float32)
    return lambda: compiled(zeros)


def _hints(precision: Precision) -> dict[str, Any]:
    return {"INFERENCE_PRECISION_HINT": precision.replace("fp32", "f32"), "NUM_STREAMS": 1}


@dataclass(frozen=True)
class EncoderSource:
    """An encoder before it is compiled for a machine."""

    load: Callable[[], PixelsToGrid]  # is called unless the encoder is kept in a folder
    size: int  # of its images, pixels
    precision: Precision  # of what the graph does not quantise
    quantise: Callable[[Any], Any] | None = None  # returns the graph in int8
    quantised: str = ""  # identifies that graph


def openvino_encoder(source: EncoderSource, cache: Path | None) -> Callable[[Tensor], Tensor]:
    """Return the encoder as a function of uint8 pixels (B, size, size, 3).

    `cache` is the prefix of the folder in which its converted and its compiled form are kept for the next process;
    without one, and when the folder cannot be written or read, both are made each time.
    """
    if cache is None:
        return as_function(_compile(source, _converted(source.load(), source.size)))
    folder = _folder_of(cache, source.size)
    file = folder / f"{_machine(source)}.compiled"
    if (compiled := _kept(file, source.precision)) is not None:
        return as_function(compiled)
    compiled = _compile(source, converted_encoder(source.load, source.size, cache))
    _keep(compiled, file)
    return as_function(compiled)


def converted_encoder(load: Callable[[], PixelsToGrid], size: int, cache: Path | None) -> Any:
    """Return the encoder as an OpenVINO graph, for any number of images of one size.

    `cache` is that of `openvino_encoder`. `load` is called unless the graph is kept.
    """
    return _converted(load(), size) if cache is None else _cached(import_openvino().Core(), load, size, cache)


def compiled_encoder(graph: Any, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Return an encoder's graph as a function of uint8 pixels (B, size, size, 3)."""
    return as_function(import_openvino().Core().compile_model(graph, "CPU", _hints(precision)))


def as_function(compiled: Any) -> Callable[[Tensor], Tensor]:
    """Return a compiled encoder as a function of uint8 pixels (B, size, size, 3)."""

    def encode(pixels: Tensor) -> Tensor:
        features = compiled(pixels.numpy(), share_inputs=True)[0]
        return torch.from_numpy(features.copy())

    return encode


def _compile(source: EncoderSource, graph: Any) -> Any:
    graph = graph if source.quantise is None else source.quantise(graph)
    return import_openvino().Core().compile_model(graph, "CPU", _hints(source.precision))


def _machine(source: EncoderSource) -> str:
    """Identify a compiled form: it is made for one kind of CPU."""
    core = import_openvino().Core()
    names = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    return digest_of([source.precision, source.quantised, *(core.get_property("CPU", name) for name in names)])[:16]


def _kept(file: Path, precision: Precision) -> Any:
    """Return the compiled encoder of a file; None if there is none, or a damaged one."""
    if not is_private(file.parent):
        return None
    try:
        with file.open("rb") as stream:
            return import_openvino().Core().import_model(stream.read(), "CPU", _hints(precision))
    except (OSError, RuntimeError):
        return None


def _keep(compiled: Any, file: Path) -> None:
    """Write a compiled encoder to a file. Without it, the next process compiles the encoder again."""
    if not is_private(file.parent):
        return
    with contextlib.suppress(OSError, RuntimeError), atomic.replacing(file) as unfinished:
        unfinished.write_bytes(compiled.export_model().getvalue())


def is_private(folder: Path) -> bool:
    """Return whether a folder is this user's and nobody else can write to it: what is kept there is run."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _folder_of(cache: Path, size: int) -> Path:
    return cache.with_name(f"{cache.name}-{size}-{import_openvino().__version__.partition('-')[0]}")


def _cached(core: Any, load: Callable[[], PixelsToGrid], size: int, cache: Path) -> Any:
    """Return the converted network from its folder; convert it and create the folder when it is not there."""
    folder = _folder_of(cache, size)
    file = folder / "encoder.xml"
    if file.exists():
        if not is_private(folder):
            log.warning("others can write to %s, so it is not used and each start takes longer: delete it", folder)
            return _converted(load(), size)
        try:
            return core.read_model(file)
        except (OSError, RuntimeError):  # OpenVINO's own is a RuntimeError that names no cause
            log.warning("the converted model in %s cannot be read, so each start takes longer: delete it", folder)
            return _converted(load(), size)
    graph = _converted(load(), size)
    try:
        with atomic.new_folder(folder) as unfinished:  # two workers may do this at once
            import_openvino().save_model(graph, unfinished / file.name)
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
