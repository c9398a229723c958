"""What `producer plan` and the worker's probe tell each other: files of a sample, and what each of them takes.

The producer never loads the model, and neither program imports the other. So the probe is a process of the worker's
code that gets one line of JSON and answers with lines of JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from captioning.values import DecodeOptions

MODULE = "worker.probe"  # of which `main` is the probe


@dataclass(frozen=True)
class SampleFile:
    """A file to measure."""

    root: bytes
    path: bytes  # below the root
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int | None = None


@dataclass(frozen=True)
class ProbeRequest:
    """What is measured."""

    digest: str  # of the model
    options: DecodeOptions
    files: tuple[SampleFile, ...]
    at_least: int  # files of which the first are measured whatever the time
    seconds: float  # after which no further file is measured
    total: int  # files of the whole job: no batch is larger

    def to_text(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self) | {"files": [_file_to_json(file) for file in self.files]})

    @classmethod
    def from_text(cls, text: str) -> "ProbeRequest":
        values = json.loads(text)
        files = tuple(_file_from_json(file) for file in values["files"])
        return cls(**(values | {"files": files, "options": DecodeOptions(**values["options"])}))


@dataclass(frozen=True)
class FileTimes:
    """What a file of the sample took."""

    file: int  # its place in the request
    read_seconds: float
    decode_seconds: float
    failed: str = ""  # the reason


@dataclass(frozen=True)
class BatchTimes:
    """What the model took for some images."""

    images: int
    seconds: float
    cpu_seconds: float  # of all threads


@dataclass(frozen=True)
class ProbeResult:
    """What was measured, and with what."""

    files: tuple[FileTimes, ...]  # of the request, in any order; fewer when the time was over
    batches: tuple[BatchTimes, ...]
    load_seconds: float  # from the start of the process until the model was ready
    decode_processes: int
    cores: int
    device: str  # cpu, cuda:0...

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ProbeResult":
        files = tuple(FileTimes(**file) for file in values["files"])
        batches = tuple(BatchTimes(**batch) for batch in values["batches"])
        return cls(**(dict(values) | {"files": files, "batches": batches}))


def _file_to_json(file: SampleFile) -> dict[str, Any]:
    return asdict(file) | {"root": file.root.hex(), "path": file.path.hex()}


def _file_from_json(values: Mapping[str, Any]) -> SampleFile:
    paths = {name: bytes.fromhex(values[name]) for name in ("root", "path")}
    return SampleFile(**(dict(values) | paths))
