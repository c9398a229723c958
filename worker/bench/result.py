"""What `worker bench` measures: the fields of its JSON document. The reference page shows their comments."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StageResult:
    """How busy one stage was."""

    seconds: float  # of all threads or processes of this stage together
    share: float  # of the time in which they could have been busy, from 0 to 1
    capacity: int  # threads or processes of this stage


@dataclass(frozen=True)
class BenchResult:
    """What was measured."""

    images: int  # captioned while it was measured
    seconds: float  # that was measured, after a warm-up
    images_per_second: float  # of the whole path: read, decode, encode, search, commit
    bare_images_per_second: float  # encoder and search alone, of images in memory
    of_bare: float  # `images_per_second` as a part of `bare_images_per_second`
    batch_size: int  # images
    batch_fill: float  # how full the batches were, from 0 to 1
    stages: dict[str, StageResult]  # read, decode, encode, search, commit, claim, look up; wait: the model for images
    process_ms: float  # CPU time of the worker's process for an image; on a CPU the model's too
    memory_mb: float  # most that this process has used
    read_mb_per_second: float  # of files
    file_kb: float  # of a file, on average
    megapixels: float  # of an image, on average
    decode_ms: float  # of one decode process for an image
    decode_processes: int  # that decode images
    decode_deaths: int  # of decode processes
    cores: int  # that this process may use
    files: int  # of the folder that were used
    failed: int  # of them, which are no images that can be decoded
    model: str  # its name
    runtime: str  # library that computes the encoder
    device: str  # cpu, cuda:0...
    precision: str  # of the encoder
    bottleneck: str = ""  # read, decode, device, database or process
    reason: str = ""  # in a sentence
    remedy: str = ""  # what would help

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it, numbers rounded."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
