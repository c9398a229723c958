"""Check and measure a GPU: `python -m benchmarks.gpu --out FOLDER`, about four minutes.

First what the device computes is compared with the CPU, then each part is measured alone, then whole jobs. Rows appear
one by one and are written at once, to `gpu.json` and `gpu.md`. `--device cpu --quick` runs all of it in a minute, to
try the script. Images are made from seeds; captions of photographs, `--photographs FOLDER`, tell more about rounding.
"""

import argparse
import functools
import logging
import platform
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import correctness, model
from benchmarks.gpu.images import cores, photographs, write_images
from benchmarks.gpu.report import Report
from captioning.bundles import find_bundles
from captioning.model.captioner import Captioner
from captioning.model.load_bundle import load_encoder
from captioning.model.pixels import Pixels
from captioning.model.runtime import Runtime, choose_runtime, load_captioner, optimize_for_inference

BUNDLE = "lstm"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    images: int  # of which captions are compared
    sizes: tuple[int, ...]  # batches
    compiled: int  # batch for which the encoder is compiled
    backend: str  # that compiles it
    job: int  # images
    decode: int  # processes
    seconds: float  # in all
    row_seconds: float
    job_seconds: float


QUICK = Plan(8, (4,), 4, "aot_eager", 48, 2, 400.0, 0.1, 170.0)
FULL = Plan(512, (32, 64, 128, 256, 512), 256, "inductor", 30_000, 15, 240.0, 1.5, 45.0)


def main() -> None:
    """Measure everything that this machine has."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda:0", help="cuda:0 or cpu")
    parser.add_argument("--quick", action="store_true", help="few images, to try the script")
    parser.add_argument("--photographs", type=Path, help="folder of images for the comparison of captions")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = "cuda:0" if given.device == "cuda" else given.device
    plan = QUICK if given.quick else FULL
    report = Report(given.out, machine(device), plan.seconds, plan.row_seconds)
    with tempfile.TemporaryDirectory(prefix="captionmill-gpu-") as temporary:
        data = Path(temporary) / "data"
        images = photographs(given.photographs, plan.images)
        report.attempt("the model alone", lambda: measure_model(report, device, plan, images, data / "runtime"))
        report.attempt("whole jobs", lambda: measure_jobs(report, device, plan, Path(temporary), data))


def machine(device: str) -> dict[str, str]:
    """Return what the figures depend on."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "CPU"
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    return {"device": name, "cores": str(cores()), **versions}


def measure_model(report: Report, device: str, plan: Plan, images: list[Pixels], cache: Path) -> None:
    """Check what the model computes, and measure its parts."""
    bundle = find_bundles()[BUNDLE]
    chosen = choose_runtime("torch", device)
    captioner = replace(load_captioner(bundle, chosen), search_precision="fp32")
    exact = replace(load_captioner(bundle, Runtime("torch", "cpu", "fp32", "exact")), search_precision="fp32")
    network = optimize_for_inference(load_encoder(bundle), device, chosen.precision)  # type: ignore[arg-type]
    example = torch.from_numpy(np.stack((images * plan.compiled)[: plan.compiled])).to(device)
    compiled = correctness.check_compiled(report, network, chosen.precision, cache, example, plan.backend)  # type: ignore[arg-type]
    correctness.check(report, captioner, exact, images)
    if device.startswith("cuda"):
        correctness.check_memory(report, captioner)
    with torch.inference_mode():
        model.both_rows(report, captioner, compiled, (images * plan.compiled)[: plan.compiled], goal=15_000)
        model.search_rows(report, captioner, features_of(captioner, images), plan.sizes)
        model.encoder_rows(report, device, network, compiled, (*plan.sizes, 2 * plan.sizes[-1]))


def features_of(captioner: Captioner, images: list[Pixels]) -> Tensor:
    """Return the features (B, N, 2048) of images."""
    parts = [torch.from_numpy(np.stack(images[start : start + 64])) for start in range(0, len(images), 64)]
    return torch.cat([captioner.encode(part) for part in parts])


def measure_jobs(report: Report, device: str, plan: Plan, folder: Path, data: Path) -> None:
    """Measure the decode processes and two jobs: the second finds what the first has compiled."""
    from benchmarks.gpu import job

    processes = min(plan.decode, max(1, cores() - 1))
    name, goal = f"decode pool alone, {processes} processes", 9000 if processes == 15 else None
    report.measure(name, lambda: job.decode_rate(processes, 3.0), goal=goal)
    for number, which in enumerate(("first job", "second job"), start=1):
        images = folder / which.replace(" ", "-")
        size = functools.partial(write_images, images, range(number * plan.job, (number + 1) * plan.job), cores())
        report.measure(f"size of the images of the {which}", size, "bytes")
        report.attempt(
            which,
            lambda images=images, which=which: job.job_rows(
                report, which, job.Watched(images, data, device, plan.job_seconds), goals=which == "second job"
            ),
        )


if __name__ == "__main__":
    main()
