"""Measures the worker's own path over a folder of images: read, decode, encode, search, commit."""

import functools
import math
import operator
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from captioning.decoding.pool import DecodedImage
from captioning.environment import available_cores
from captioning.errors import CaptioningError
from captioning.settings import Settings
from captioning.store import jobs
from captioning.store.files import FoundFile
from worker.bench.bare import Bare, decode_some, mean_of, measure_bare
from worker.bench.bottleneck import find_bottleneck
from worker.bench.job import BenchJob, temporary_settings
from worker.bench.result import BenchResult, StageResult
from worker.environment import STOP_FILE
from worker.pipeline import FEEDERS
from worker.runner import Runner
from worker.stages import Counters, Stage

Show = Callable[[str, float], object]
"""Shows what is going on, and how much of all is done, from 0 to 1."""

WARM_UP_SECONDS, MOST_WARM_UPS = 3.0, 10  # each; more than one until the batch size has settled
BARE_SECONDS = 2.0  # of one measurement of the bare model
TURNS = 3  # of the whole path and the bare model
_RESERVE = 2.0  # times as many images are queued as the warm-up lets expect
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Moment:
    """What was counted up to the end of a batch; or, as a difference, between two of them."""

    at: float  # seconds
    counters: Counters
    process_seconds: float  # CPU time of this process
    decode_seconds: float  # of all decode processes

    @property
    def images(self) -> int:
        return self.counters.images

    def since(self, earlier: "Moment") -> "Moment":
        """Return the difference."""
        return Moment(
            self.at - earlier.at,
            self.counters.since(earlier.counters),
            self.process_seconds - earlier.process_seconds,
            self.decode_seconds - earlier.decode_seconds,
        )

    def __add__(self, other: "Moment") -> "Moment":
        return Moment(
            self.at + other.at,
            self.counters + other.counters,
            self.process_seconds + other.process_seconds,
            self.decode_seconds + other.decode_seconds,
        )


def bench(settings: Settings, folder: Path, found: list[FoundFile], seconds: float, show: Show) -> BenchResult:
    """Caption files below a folder, again and again, and measure for some seconds.

    Nothing is written into the folder or into the configured database. Raises UsageError when none is an image.
    """
    show("loading the model", 0.0)
    with temporary_settings(settings) as own, closing(Runner.open(own)) as runner:
        return Bench(runner, BenchJob(own, runner.db, folder, found), seconds, show).run()


class Bench:
    """One measurement."""

    def __init__(self, runner: Runner, job: BenchJob, seconds: float, show: Show) -> None:
        self._runner, self._job, self._seconds, self._show = runner, job, seconds, show
        name = runner.settings.model
        (digest,) = [digest for digest, bundle in runner.models.bundles.items() if bundle.name == name]
        self._bundle, self._captioner = runner.models.bundles[digest], runner.models.captioner(digest)
        self._pool = runner.decode_pool(runner.models.image_size(digest))
        assert runner.settings.worker_state_dir is not None
        self._stop_file = runner.settings.worker_state_dir / STOP_FILE
        self._bare_seconds, self._warm_up_seconds = min(BARE_SECONDS, seconds / TURNS), min(WARM_UP_SECONDS, seconds)
        self._expected = (TURNS + 1) * self._bare_seconds + self._warm_up_seconds + seconds
        self._spent = 0.0  # of the expected seconds

    def run(self) -> BenchResult:
        """Measure the whole path and the bare model in turns, since other programs use the machine too."""
        self._show("decoding some images", 0.0)
        root = os.fsencode(self._job.folder.resolve())
        decoded = decode_some(self._pool, root, self._job.found, self._runner.settings.max_bytes)
        rate = self._warm_up()
        bare, whole = [self._bare(decoded)], []
        for _ in range(TURNS):
            least = 4 * self._runner.adaptive_batch.largest
            self._job.queue(least + round(_RESERVE * rate * self._seconds / TURNS))
            whole.append(self._whole())
            bare.append(self._bare(decoded))
        around = [mean_of(pair).images_per_second for pair in pairwise(bare)]
        of_bare = median(part.images / part.at / alone for part, alone in zip(whole, around, strict=True))
        result = self._result(functools.reduce(operator.add, whole), of_bare, mean_of(bare), decoded)
        bottleneck, reason, remedy = find_bottleneck(result)
        return replace(result, bottleneck=bottleneck, reason=reason, remedy=remedy)

    def _warm_up(self) -> float:
        """Work until the batch size has settled; return images/s."""
        batch = self._runner.adaptive_batch
        for _ in range(MOST_WARM_UPS):
            began, before = time.monotonic(), self._runner.stages.now().images
            self._job.queue(4 * batch.largest)
            self._report("warming up", self._spent)
            timer = threading.Timer(self._warm_up_seconds, self._request_stop)
            timer.start()
            self._work()
            timer.cancel()
            rate = (self._runner.stages.now().images - before) / (time.monotonic() - began)
            if batch.is_settled:
                break
        self._spent += self._warm_up_seconds
        return rate

    def _work(self) -> None:
        """Work until a stop is requested, as that of a worker is, or nothing is queued."""
        self._stop_file.unlink(missing_ok=True)
        for error in self._runner.work(math.inf, lambda: None):
            raise error

    def _request_stop(self) -> None:
        with suppress(OSError):  # of a folder that is gone, because it has ended
            self._stop_file.touch()

    def _bare(self, decoded: list[DecodedImage]) -> Bare:
        self._report("measuring the model alone", self._spent)
        size = self._runner.adaptive_batch.size
        found = measure_bare(self._captioner, decoded, size, self._job.options, self._bare_seconds)
        self._spent += self._bare_seconds
        return found

    def _whole(self) -> Moment:
        """Work; return what was counted while the pipeline was full."""
        moments: list[Moment] = []
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(moments, ended), daemon=True)
        watcher.start()
        try:
            self._work()
        finally:
            ended.set()
            watcher.join()
        self._spent += self._seconds / TURNS
        if len(moments) < 2:
            raise CaptioningError("too few batches were captioned: give more --seconds.")
        return moments[-1].since(moments[0])

    def _watch(self, moments: list[Moment], ended: threading.Event) -> None:
        """Note the ends of batches: the first after the pipeline was filled, the last in time. Then stop the work."""
        latest = self._moment()
        filled = latest.images + self._runner.adaptive_batch.largest
        while not ended.wait(_POLL_SECONDS):
            now = self._moment()
            if len(moments) > 1 and now.at - moments[0].at > self._seconds / TURNS:
                self._request_stop()
                return
            if now.images > latest.images and now.images >= filled:
                moments[1:] = [now]  # after the first one, if there is one
            latest = now
            self._report("measuring the whole path", self._spent + (now.at - moments[0].at if moments else 0.0))

    def _moment(self) -> Moment:
        return Moment(time.monotonic(), self._runner.stages.now(), time.process_time(), self._pool.busy_seconds)

    def _report(self, what: str, spent: float) -> None:
        self._show(what, min(1.0, spent / self._expected))

    def _result(self, whole: Moment, of_bare: float, bare: Bare, decoded: list[DecodedImage]) -> BenchResult:
        counted, wall, images = whole.counters, whole.at, max(1, whole.images)
        runtime = self._runner.models.runtime.for_bundle(self._bundle)
        reading = counted.seconds[Stage.READ]
        return BenchResult(
            images=counted.images,
            seconds=wall,
            images_per_second=counted.images / wall,
            bare_images_per_second=bare.images_per_second,
            of_bare=of_bare,
            batch_size=self._runner.adaptive_batch.size,
            batch_fill=counted.images / max(1, counted.wanted),
            stages=stages_of(whole, self._pool.count, bare, on_gpu=runtime.device != "cpu"),
            process_ms=whole.process_seconds / images * 1e3,
            memory_mb=_peak_bytes() / 1e6,
            read_mb_per_second=counted.bytes / 1e6 / reading if reading else 0.0,
            file_kb=counted.bytes / 1e3 / max(1, counted.files),
            megapixels=mean(each.info.width * each.info.height for each in decoded) / 1e6,
            decode_ms=whole.decode_seconds / images * 1e3,
            decode_processes=self._pool.count,
            decode_deaths=counted.deaths,
            cores=available_cores(),
            files=len(self._job.found),
            failed=sum(progress.failed for progress in jobs.progress(self._runner.db)),
            model=self._bundle.name,
            runtime=runtime.name,
            device=runtime.device,
            precision=runtime.precision,
        )


def stages_of(whole: Moment, processes: int, bare: Bare, *, on_gpu: bool) -> dict[str, StageResult]:
    """Return how busy each stage was. A GPU computes while Python goes on, so there the bare model says which part."""
    seconds, wall = whole.counters.seconds, whole.at
    model, encode = seconds[Stage.MODEL], seconds[Stage.ENCODE]
    if on_gpu:
        encode = model * bare.encode * bare.images_per_second
    busy = {
        "claim": (seconds[Stage.CLAIM], 1),
        "read": (seconds[Stage.READ], FEEDERS),
        "look up": (seconds[Stage.LOOK_UP], FEEDERS),
        "decode": (whole.decode_seconds, processes),
        "encode": (encode, 1),
        "search": (model - encode, 1),
        "commit": (seconds[Stage.COMMIT], 1),
        "wait": (seconds[Stage.STARVED], 1),
    }
    return {
        name: StageResult(spent, min(1.0, spent / wall / capacity), capacity)
        for name, (spent, capacity) in busy.items()
    }


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
