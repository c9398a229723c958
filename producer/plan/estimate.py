"""From what a sample takes to how long a job takes, with an interval.

Reading, decoding, the model and the cores work at the same time (`worker.pipeline`), so the rate of the whole is that
of the one that takes longest, not of their sum. On a CPU the model and decoding also share the cores.

The interval has two parts: the sample is small, which Student's t-distribution of each stratum covers; and the model of
the pipeline is simple, which a fixed share covers that `benchmarks/plan_error.py` has measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from captioning.probe import FileTimes, ProbeResult

Limit = Literal["reading", "decoding", "model", "cores"]
LIMITS: tuple[Limit, ...] = ("reading", "decoding", "model", "cores")

CONFIDENCE = 0.9
MODEL_ERROR = 0.10  # standard deviation of log(real / planned) that the sample does not explain
START_SECONDS = 3.0  # of broker and worker, besides loading the model
OVERHEAD_CPU_SECONDS = 0.0015  # of an image on the cores, besides decoding and the model: hashing, rows, commits
_ONE_FILE_ERROR = 0.5  # relative standard error of a stratum of which one file was measured
_LEAST_FREEDOM = 2  # degrees; with one the distribution has no variance
_LEAST_COST = 0.1  # of the mean, which no draw goes below
_DRAWS = 4000
Vector = NDArray[np.float64]  # seconds of an image by what it uses: reading, a decode process, the device, a core


@dataclass(frozen=True)
class Measured:
    """A stratum of the files to caption, with what the measured ones took."""

    count: int  # files
    files: tuple[FileTimes, ...]


@dataclass(frozen=True)
class Estimate:
    """How long a job takes."""

    seconds: float
    low_seconds: float  # it takes less with a probability of (1 - CONFIDENCE) / 2...
    high_seconds: float  # ... and more with the same
    start_seconds: float  # of these, before the first image
    images_per_second: float  # after the start
    limit: Limit  # what takes longest


def estimate(strata: Sequence[Measured], probe: ProbeResult, workers: int = 1) -> Estimate:
    """Return how long the files take. `workers` like this one share the work, each on a machine of its own."""
    costs = [_costs(stratum.files, probe) for stratum in strata]
    means, errors = _means_and_errors(strata, costs)
    counts = np.array([stratum.count for stratum in strata], np.float64)
    start = probe.load_seconds + START_SECONDS
    parts = _parts(counts @ means, probe)
    work = float(parts.max()) / workers
    draws = (start + _draws(strata, means, errors, probe) / workers) * _unexplained()
    low, high = map(float, np.quantile(draws, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))
    rate = float(counts.sum()) / work if work else 0.0
    return Estimate(start + work, low, high, start, rate, LIMITS[int(parts.argmax())])


def _costs(files: Sequence[FileTimes], probe: ProbeResult) -> Vector:
    """Return a row for each file: seconds of reading, of a decode process, of the device, of a core."""
    images = sum(batch.images for batch in probe.batches) or 1
    device = sum(batch.seconds for batch in probe.batches) / images
    cpu = sum(batch.cpu_seconds for batch in probe.batches) / images
    rows = []
    for file in files:
        of_model, of_cores = (0.0, 0.0) if file.failed else (device, cpu)
        cores = file.decode_seconds + of_cores + OVERHEAD_CPU_SECONDS
        rows.append((file.read_seconds, file.decode_seconds, of_model, cores))
    return np.array(rows, np.float64).reshape(-1, len(LIMITS))


def _means_and_errors(strata: Sequence[Measured], costs: Sequence[Vector]) -> tuple[Vector, Vector]:
    """Return the mean costs of an image of each stratum, and the standard errors of these means."""
    means, errors = [], []
    for stratum, rows in zip(strata, costs, strict=True):
        mean, measured = rows.mean(0), len(rows)
        left = max(0.0, 1 - measured / stratum.count)  # what is measured whole has no error
        error = rows.std(0, ddof=1) / np.sqrt(measured) if measured > 1 else _ONE_FILE_ERROR * mean
        means.append(mean)
        errors.append(error * np.sqrt(left))
    return np.array(means), np.array(errors)


def _parts(total: Vector, probe: ProbeResult) -> Vector:
    """Return the seconds for which each of LIMITS is busy, from the total costs (..., 4)."""
    is_cpu = probe.device == "cpu"
    share = np.array([1, probe.decode_processes, 1, probe.cores if is_cpu else np.inf], np.float64)
    return np.divide(total, share)


def _draws(strata: Sequence[Measured], means: Vector, errors: Vector, probe: ProbeResult) -> Vector:
    """Return seconds after the start as they could be too, given what was measured."""
    rng = np.random.default_rng(0)
    total = np.zeros((_DRAWS, len(LIMITS)))
    for stratum, mean, error in zip(strata, means, errors, strict=True):
        away = rng.standard_t(max(_LEAST_FREEDOM, len(stratum.files) - 1), (_DRAWS, 1))
        total += stratum.count * np.maximum(mean + away * error, _LEAST_COST * mean)
    busy: Vector = _parts(total, probe).max(1)
    return busy


def _unexplained() -> Vector:
    """Return factors for what the sample cannot know: the simple model of the pipeline, other programs, the start."""
    factors: Vector = np.exp(MODEL_ERROR * np.random.default_rng(1).standard_normal(_DRAWS))
    return factors
