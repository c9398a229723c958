"""Measure what the worker's Python costs for an image, where the model and the decoding cost nothing.

python -m benchmarks.pipeline                       # 20,000 files of 18 KB, batches of 256
python -m benchmarks.pipeline --images 50000 --batch-size 512 --switch-interval 0.5

On a GPU one process does all of this under one lock (GIL), so 1 second / (microseconds of an image) is the most images
that it can serve. Decode processes answer at once and the captioner has its captions ready. Times are CPU time of
threads: `feed` claims, reads, hashes, looks up and makes outcomes, `driver` drives the decode processes, `model` makes
batches, `commit` is the database's. What is in brackets is part of it.
"""

import argparse
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

from captioning.environment import set_for_children, use_one_numpy_thread

use_one_numpy_thread()  # before it is imported

import worker.file_reader  # noqa: E402
from benchmarks.decode import INSTANT  # noqa: E402
from captioning.bundles import find_bundles  # noqa: E402
from captioning.decoding.driver import Driver  # noqa: E402
from captioning.decoding.pool import DecodePool  # noqa: E402
from captioning.model.pixels import Limits, Pixels, Preprocessing  # noqa: E402
from captioning.model.runtime import Runtime  # noqa: E402
from captioning.settings import read_settings  # noqa: E402
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

FILE_BYTES = 18_000
CAPTION = Caption("a dog runs on the grass", (-0.5,) * 7, (Alternative("a cat", -9.0),) * 2, 0.6, vector=bytes(256))


class ReadyCaptioner:
    """Captions at once."""

    preprocessing = Preprocessing(size=224)

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        return [CAPTION] * len(images)


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


def run(images: int, processes: int, batch_size: int, database: str) -> None:
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        make_files(folder, images)
        with temporary_settings(read_settings(batch_size=batch_size)) as own:
            settings = own.model_copy(update={"database_url": database}) if database else own
            measure(settings, folder, images, processes)


def measure(settings: Any, folder: Path, images: int, processes: int) -> None:
    bundle = find_bundles()[settings.model]
    captioner: Any = ReadyCaptioner()
    models = ModelCache(
        {bundle.digest: bundle}, Runtime("torch", "cuda:0", "bf16", ""), folder, {bundle.digest: captioner}
    )

    def start_pool(size: int) -> DecodePool:
        return DecodePool(processes, size, Limits(), 60.0, INSTANT)

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
    print(f"{images / wall:7.0f} images/s; batches {done.images / done.wanted:.0%} full")
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
    arguments = parser.parse_args()
    sys.setswitchinterval(arguments.switch_interval / 1000)
    set_for_children("PYTHONPATH", str(Path.cwd()))  # for the module that answers at once
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    run(arguments.images, arguments.processes, arguments.batch_size, arguments.database)


if __name__ == "__main__":
    main()
