"""Is what a device computes right? Each row is a share of images, or a distance."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.report import Report
from captioning.model.captioner import Captioner
from captioning.model.compiled_encoder import TOLERANCES, CompiledEncoder, relative_difference
from captioning.model.pixels import Pixels
from captioning.model.precision import Precision
from captioning.model.repeats import said_once
from captioning.model.search.beam import searched_images
from captioning.model.search.cuda_graph import CudaRecorder, GraphLoop
from captioning.values import DecodeOptions
from tests.support.plain_search import PlainSearch
from worker.adaptive_batch import AdaptiveBatch

OPTIONS = DecodeOptions()
BATCH = 64


def texts(captioner: Captioner, images: Sequence[Pixels]) -> list[str]:
    """Return the captions of images, in batches."""
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return [caption.text for part in parts for caption in captioner.caption(part, OPTIONS)]


def same(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of equal texts."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def plain(captioner: Captioner) -> Captioner:
    """Return a captioner that searches as the definition does."""
    found = replace(captioner)
    found.__dict__["_search"] = PlainSearch(captioner.decoder, said_once(captioner.vocabulary), captioner.neutral)
    return found


def check(report: Report, device: Captioner, cpu: Captioner, images: Sequence[Pixels]) -> None:
    """Compare captions of the device with those of the CPU in fp32, and of each kind of search."""
    usual = replace(device, loop=searched_images)
    of_device = texts(usual, images)

    def compare(name: str, other: Captioner, **more: float) -> None:
        name = f"same captions: {name}"
        report.measure(name, lambda: same(of_device, texts(other, images)), "", note=f"{len(images)} images", **more)

    compare("CPU in fp32", cpu)
    compare("plain search on this device", plain(usual), goal=0.99)
    if device.decoder.bias.is_cuda:
        compare("CUDA graphs", replace(device, loop=GraphLoop(CudaRecorder(str(device.decoder.bias.device)))), goal=1.0)
        torch.backends.cuda.matmul.allow_tf32 = True
        compare("search in TF32", usual)
        torch.backends.cuda.matmul.allow_tf32 = False
        with torch.autocast("cuda", torch.bfloat16):
            compare("search in bf16", usual)


def check_compiled(
    report: Report, network: torch.nn.Module, precision: Precision, cache: Path, images: torch.Tensor, backend: str
) -> CompiledEncoder:
    """Compile the encoder for the batch sizes that it is compiled for, and compare; return it."""
    encoder = CompiledEncoder(network, precision, cache, [len(images)], backend)

    def difference() -> float:
        with torch.inference_mode():
            for _ in range(8):
                encoder(images)
            encoder.wait()
            if not encoder.sizes:
                raise RuntimeError("the encoder was not compiled: see the log")
            return relative_difference(encoder(images), network(images).float())

    name = f"distance of the compiled encoder, batch {len(images)}"
    report.measure(name, difference, "", goal=TOLERANCES[precision], at_most=True)
    return encoder


def check_memory(report: Report, captioner: Captioner, images: int = 3000) -> None:
    """Give the device too little memory for a batch, and see that every image is captioned."""
    free, total = torch.cuda.mem_get_info()

    def captioned() -> float:
        blank = np.zeros((captioner.preprocessing.size,) * 2 + (3,), np.uint8)
        batch = AdaptiveBatch()
        torch.cuda.set_per_process_memory_fraction((total - free + 1_500_000_000) / total)
        try:
            found = batch.caption(replace(captioner, loop=searched_images), [blank] * images, OPTIONS)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        if batch.limit is None:
            raise RuntimeError("the memory was enough for all images at once")
        return float(len(found))

    report.measure(f"captions of {images} images with 1.5 GB of memory", captioned, "captions", goal=images)
