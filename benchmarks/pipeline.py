"""Measure what the worker's Python costs for an image, where the model and the decoding cost nothing.

python -m benchmarks.pipeline                       # 20,000 files of 18 KB, batches of 256
python -m benchmarks.pipeline --images 50000 --batch-size 512 --switch-interval 0.5
python -m benchmarks.pipeline --images 3000 --read-ms 20 --model-us 2000              # a slow disk, and a model
python -m benchmarks.pipeline --images 3000 --read-ms 20 --model-us 2000 --readers 1  # not read ahead

On a GPU one process does all of this under one lock (GIL), so 1 second / (microseconds of an image) is the most images
that it can serve. Decode processes answer at once and the captioner has its captions ready. Times are CPU time of
threads: `feed` claims, reads, hashes, looks up and makes outcomes, `driver` drives the decode processes, `model` makes
batches, `commit` is the database's. What is in brackets is part of it.
"""

import argparse
import functools
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import structlog

from captioning.environment import set_for_children, set_up_math_threads

set_up_math_threads()  # before it is imported

import worker.disk_reader  # noqa: E402
import worker.file_reader  # noqa: E402
from benchmarks.decode import INSTANT  # noqa: E402
from captioning.bundles import find_bundles  # noqa: E402
from captioning.decoding.driver import Driver  # noqa: E402
from captioning.decoding.pool import DecodePool  # noqa: E402
from captioning.model.pixels import Limits, Pixels, Preprocessing  # noqa: E402
from captioning.model.runtime import Runtime  # noqa: E402
from captioning.settings import Settings, read_settings  # noqa: E402
from captioning.store import results  # noqa: E402
from captioning.store.database import Database  # noqa: E402
from captioning.values import Alternative, Caption, DecodeOptions  # noqa: E402
from tests.faults.failpoint_wiring import wrap  # noqa: E402
from worker.bench.job import BenchJob, find_files, temporary_settings  # noqa: E402
from worker.committing import Committer  # noqa: E402
from worker.file_reader import FileReader  # noqa: E402
from worker.model_cache import ModelCache  # noqa: E402
from worker.pipeline import Pipeline  # noqa: E402
from worker.runner import Runner  # noqa: E402
from worker.stages import Stage  # noqa: E402

FILE_BYTES = 18_000
CAPTION = Caption("a dog runs on the grass", (-0.5,) * 7, (Alternative("a cat", -9.0),) * 2, 0.6, vector=bytes(256))


class ReadyCaptioner:
    """Captions in no time, or in some for each image."""

    preprocessing = Preprocessing(size=224)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        time.sleep(self._seconds * len(images))
        return [CAPTION] * len(images)


def slow_down(read: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """Read as from a disk that takes some time for each file."""
    time.sleep(seconds)
    return read(*arguments)


@dataclass
class CpuTimes:
    """CPU time of calls, by name, of the threads that made them."""

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def count(self, owner: Any, function: str, name: str) -> None:
        """Count the calls of `owner.function`."""

        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                seconds = time.thread_time() - began
                with self._lock:
                    self.seconds[name] += seconds

        wrap(owner, function, around)


def make_files(folder: Path, images: int) -> None:
    """Write files with different contents. None is an image, but nothing decodes them."""
    for number in range(images):
        place = folder / f"{number // 1000:03}"
        place.mkdir(exist_ok=True)
        (place / f"{number:06}.jpg").write_bytes(os.urandom(FILE_BYTES))


def count_all(times: CpuTimes) -> None:
    times.count(Pipeline, "_feed", "feed")
    times.count(Driver, "_run", "driver")
    times.count(Pipeline, "run", "model")
    times.count(Committer, "_run", "commit")
    times.count(Runner, "claim", "  (claim)")
    times.count(worker.file_reader, "read_file", "  (read and hash)")
    times.count(results, "captioned_digests", "  (look up)")


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        make_files(folder, arguments.images)
        with temporary_settings(read_settings(batch_size=arguments.batch_size)) as own:
            url = arguments.database
            measure(own.model_copy(update={"database_url": url}) if url else own, folder, arguments)


def measure(settings: Settings, folder: Path, arguments: argparse.Namespace) -> None:
    images, processes = arguments.images, arguments.processes
    bundle = find_bundles()[settings.model]
    captioner: Any = ReadyCaptioner(arguments.model_us / 1e6)
    runtime = Runtime("torch", "cuda:0", "bf16", "")
    models = ModelCache({bundle.digest: bundle}, runtime, folder, {bundle.digest: captioner})

    def start_pool(size: int) -> DecodePool:
        return DecodePool(processes, size, Limits(), 60.0, INSTANT)

    if arguments.read_ms:
        wrap(worker.file_reader, "read_file", functools.partial(slow_down, seconds=arguments.read_ms / 1e3))
    worker.disk_reader.READERS = arguments.readers
    times = CpuTimes()
    count_all(times)
    runner = Runner(settings, "bench", Database.open(settings), models, start_pool, FileReader(settings))
    with closing(runner):
        BenchJob(settings, runner.db, folder, find_files(folder, images)).queue(1)
        began, cpu = time.monotonic(), time.process_time()
        errors = runner.work(inf, lambda: None)
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
    done = runner.stages.now()
    assert (errors, done.images) == ([], images)
    busy = done.seconds[Stage.MODEL] / wall
    print(f"{images / wall:7.0f} images/s; batches {done.images / done.wanted:.0%} full; the model works {busy:.0%}")
    print(f"{cpu / images * 1e6:7.1f} us of this process for an image, of which")
    for name in ("feed", "  (claim)", "  (read and hash)", "  (look up)", "driver", "model", "commit"):
        print(f"{times.seconds[name] / images * 1e6:7.1f} us {name}")
    without = cpu - times.seconds["commit"]
    print(f"{without / images * 1e6:7.1f} us without commits: at most {images / without:.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--switch-interval", type=float, default=5.0, help="of Python's lock, in milliseconds")
    parser.add_argument("--database", default="", help="URL of an empty database; without it, a new one of SQLite")
    parser.add_argument("--read-ms", type=float, default=0.0, help="that reading a file takes")
    parser.add_argument("--readers", type=int, default=worker.disk_reader.READERS, help="files of a slow disk at once")
    parser.add_argument("--model-us", type=float, default=0.0, help="that captioning an image takes")
    arguments = parser.parse_args()
    sys.setswitchinterval(arguments.switch_interval / 1000)
    set_for_children("PYTHONPATH", str(Path.cwd()))  # for the module that answers at once
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    run(arguments)


if __name__ == "__main__":
    main()
