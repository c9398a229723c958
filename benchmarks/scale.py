"""Measure what an item costs as a job grows, and what killed workers cost: everything is real except the model.

Producers submit, workers caption with a stub and may be killed at intervals, while the run samples the broker, the
database and the processes. All measurements go to one JSON file; `scale_plots.py` draws them.

    python -m benchmarks.scale --items 20000 --store sqlite --out figures
    python -m benchmarks.scale --items 1000000 --store postgresql --jobs 2 --high --kill-every 60 --out docs/scale
    python -m benchmarks.scale --items 1000000 --store postgresql --jobs 2 --prefill 0.95  # only the last 5 % run
"""

import json
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import typer

from benchmarks.scale_deployment import Deployment, resident_bytes
from benchmarks.scale_images import Images, make_images, make_ten_images
from benchmarks.scale_prefill import prefill
from captioning.settings import read_settings
from captioning.store import captions, jobs, search
from captioning.store.database import Database
from captioning.terminal import count

COMMON_WORD, WORD_IN_ALL = "dog", "a"  # in one caption of sixteen; in every caption
SAMPLE_SECONDS, SEARCH_SECONDS = 2.0, 15.0  # between two samples, between two searches
STALL_SECONDS = 180.0  # without a finished image, after which a run is given up


@dataclass
class Results:
    """All measurements of a run."""

    options: dict[str, Any]
    machine: str
    distinct: int = 0
    making_seconds: float = 0.0
    prefilled: int = 0  # items with results that were written before a worker was started
    submit: list[dict[str, float]] = field(default_factory=list)  # samples while producers run
    submits: list[dict[str, float]] = field(default_factory=list)  # one per producer
    again: dict[str, float] = field(default_factory=dict)
    run: list[dict[str, Any]] = field(default_factory=list)  # samples while workers run
    searches: list[dict[str, float]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)  # seconds since the workers were started
    high: dict[str, float] = field(default_factory=dict)  # the job with high priority
    claims: list[list[float]] = field(default_factory=list)  # time, duration, images; about a thousand of them
    commits: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    export: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return the duration of a call in seconds, and its result."""
    started = time.perf_counter()
    result = act()
    return time.perf_counter() - started, result


# -- submit --


def submit(deployment: Deployment, folder: Path, results: Results, *arguments: str) -> dict[str, float]:
    """Run a producer to its end; sample its memory and its progress."""
    started = time.monotonic()
    before = _registered(deployment)
    process = deployment.start_producer("submit", str(folder), "--json", *arguments)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        time.sleep(0.5)
        memory = resident_bytes(watched)
        peak = max(peak, memory)
        sample = {"seconds": time.monotonic() - started, "items": _registered(deployment), "bytes": memory}
        results.submit.append(sample | {"broker_bytes": deployment.broker_usage()["broker_bytes"]})
    if process.returncode:
        raise SystemExit(
            f"the producer exited with code {process.returncode}: see {deployment.folder}/logs/producer.log"
        )
    seconds = time.monotonic() - started
    return {"seconds": seconds, "items": _registered(deployment) - before, "peak_bytes": peak}


def _registered(deployment: Deployment) -> int:
    return deployment.number("SELECT sum(size) FROM chunks")


# -- run --


@dataclass
class Monitor:
    """Sample a run until it is finished; kill workers and submit the job with high priority at their time."""

    deployment: Deployment
    results: Results
    items: int
    kill_every: float  # seconds; 0: never
    ten_images: Path | None  # submitted with high priority when half of the remaining items are done
    prefilled: int
    started: float = field(default_factory=time.monotonic)
    high_started: float | None = None
    _high_producer: subprocess.Popen[bytes] | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def wait_until_finished(self) -> None:
        """Return when every job is finished. Ends the program when there is no progress for STALL_SECONDS."""
        last_search, last_progress, last_done = -SEARCH_SECONDS, self.seconds, -1
        while True:
            progress = self._sample()
            done = sum(p.done for p in progress)
            if done != last_done:
                last_progress, last_done = self.seconds, done
            if self.seconds - last_search > SEARCH_SECONDS:
                last_search = self.seconds
                measure_searches(self.deployment, self.results, self.seconds, done)
            if all(p.is_finished for p in progress) and (self.ten_images is None or self.results.high):
                return
            if self.seconds - last_progress > STALL_SECONDS:
                raise SystemExit(f"no progress for {STALL_SECONDS:g} s: see {self.deployment.folder}/logs")
            self._act(done)
            high_job_runs = self.high_started is not None and not self.results.high
            time.sleep(0.2 if high_job_runs else SAMPLE_SECONDS)

    def _sample(self) -> list[jobs.Progress]:
        db = self.deployment.db
        took, progress = timed(lambda: jobs.progress(db))
        by_job = {str(p.job): p.done for p in progress if p.priority == 0}
        sample = {"seconds": self.seconds, "jobs": by_job, "done": sum(by_job.values()), "status_seconds": took}
        memory = {"worker_bytes": self.deployment.worker_memory()}
        self.results.run.append(sample | memory | self.deployment.broker_usage())
        if len(self.results.run) % 15 == 1:
            log(f"{self.seconds:7.1f} s  {sample['done']:>8} done, status took {took * 1000:.1f} ms")
        self._check_high_job(progress)
        return progress

    def _check_high_job(self, progress: list[jobs.Progress]) -> None:
        high = [p for p in progress if p.priority > 0]
        if self.high_started is not None and high and high[0].is_finished and not self.results.high:
            self.results.high = {"seconds": time.monotonic() - self.high_started, "at": self.seconds}
            log(f"the job with high priority took {self.results.high['seconds']:.1f} s")

    def _act(self, done: int) -> None:
        if self.ten_images is not None and self.high_started is None and done > (self.items + self.prefilled) / 2:
            self.high_started = time.monotonic()
            self._high_producer = self.deployment.start_producer("submit", str(self.ten_images), "--priority", "high")
        if self.kill_every and self.seconds > self.kill_every * (len(self.results.kills) + 1):
            self.results.kills.append(self.seconds)
            self.deployment.kill_oldest_worker()
            self.deployment.start_worker()


def measure_searches(deployment: Deployment, results: Results, seconds: float, done: int) -> None:
    """Measure a search for a common word and for a rare one."""
    rare = _newest_word(deployment)
    durations = _search_durations(deployment.db, rare)
    results.searches.append({"seconds": seconds, "done": done} | durations)


def _search_durations(db: Database, rare: str) -> dict[str, float]:
    common_seconds, (common_hits, _) = timed(lambda: search.search(db, COMMON_WORD, 20))
    rare_seconds, (rare_hits, _) = timed(lambda: search.search(db, rare, 20))
    return {
        "common_seconds": common_seconds, "common": common_hits, "rare_seconds": rare_seconds, "rare": rare_hits,
    }  # fmt: skip


def _newest_word(deployment: Deployment) -> str:
    """Return the last word of the newest caption, which hardly any other caption contains."""
    rows = deployment.rows("SELECT text FROM captions ORDER BY id DESC LIMIT 1")
    return str(rows[0][0]).rpartition(" ")[2] if rows else "nothing"


# -- check and query the finished jobs --


def check(deployment: Deployment, results: Results, images: Images, high: int) -> None:
    """Compare the rows at the end with the expected ones. `high`: images of the job with high priority."""
    broker_empty = _wait_for_empty_broker(deployment)
    progress = jobs.progress(deployment.db)
    distinct, items = images.distinct + high, images.items + high
    counts = {name: sum(getattr(p, name) for p in progress) for name in ("captioned", "reused", "failed", "total")}
    results.end = end = counts | {
        "distinct": distinct,
        "captions": deployment.number("SELECT count(*) FROM captions"),
        "contents_with_caption": deployment.number("SELECT count(DISTINCT image_id) FROM captions"),
        "model_runs": sum(p.model_runs for p in progress),  # that were committed
        "model_calls": deployment.model_runs_file.stat().st_size,  # all
        "kills": len(results.kills),
        "bound": distinct + len(results.kills) * read_settings().chunk_size,
        "attempts_counted": deployment.number("SELECT sum(attempts) FROM items"),
        "running_chunks": deployment.number("SELECT count(*) FROM chunks WHERE state = 'running'"),
        "broker_empty": broker_empty,
    }
    within_bound = distinct <= end["model_calls"] <= end["bound"] and end["model_runs"] <= end["bound"]
    expectations = {
        "captioned + reused + failed = items": counts["captioned"] + counts["reused"] + counts["failed"] == items,
        "no item failed": counts["failed"] == 0,
        "one caption per content": end["captions"] == end["contents_with_caption"] == distinct,
        "lost model runs are at most kills x chunk size": within_bound,
        "no image is blamed for a death": end["attempts_counted"] == 0,
        "no lease is held": end["running_chunks"] == 0,
        "the broker is empty": end["broker_empty"],
    }
    end["wrong"] = [name for name, is_true in expectations.items() if not is_true]
    log(json.dumps(end))


def _wait_for_empty_broker(deployment: Deployment) -> bool:
    """Wait until the broker has no message; it redelivers those of killed workers after a minute."""
    deadline = time.monotonic() + 150
    while not deployment.broker.is_empty():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def measure_queries(deployment: Deployment, results: Results, images: Images) -> None:
    """Measure searches and exports when all jobs are finished."""
    db = deployment.db
    measure_searches(deployment, results, results.seconds, images.items)
    seconds, (hits, _) = timed(lambda: search.search(db, WORD_IN_ALL, 20))
    results.end |= {"everywhere_seconds": seconds, "everywhere": hits}
    job = jobs.progress(db)[-1].job
    first, _ = timed(lambda: sum(1 for _ in islice(captions.export_rows(db), 20_000)))
    job_seconds, job_rows = timed(lambda: sum(1 for _ in captions.export_rows(db, captions.Selection(job))))
    all_seconds, all_rows = timed(lambda: sum(1 for _ in captions.export_rows(db)))
    results.export = {"first_20000_seconds": first, "job_seconds": job_seconds, "job_rows": job_rows}
    results.export |= {"all_seconds": all_seconds, "all_rows": all_rows}
    log(f"searches {results.searches[-1]}, exports {results.export}")


def read_timings(deployment: Deployment, name: str, started: float) -> list[list[float]]:
    """Return what workers recorded of their claims or commits: about a thousand records, spread over the run."""
    rows = []
    for file in (deployment.folder / "timings").glob(f"{name}-*"):
        for line in file.read_text().splitlines():
            columns = line.split()
            if len(columns) == 3:  # a kill may have cut the last line short
                rows.append([round(float(columns[0]) - started, 2), float(columns[1]), int(columns[2])])
    rows.sort()
    return rows[:: max(1, len(rows) // 1000)]


# -- the whole run --


def measure(deployment: Deployment, results: Results, images: Images) -> None:
    """Submit, caption, check and query."""
    options = results.options
    for folder in images.folders:
        results.submits.append(submit(deployment, folder, results))
        log(f"submitted {folder.name}: {results.submits[-1]}")
    if options["prefill"]:
        per_job = images.items // len(images.folders)
        seconds, results.prefilled = timed(lambda: prefill(deployment, per_job, options["prefill"]))
        log(f"results of {count(results.prefilled, 'item')} prefilled in {seconds:.1f} s")
    for _ in range(options["workers"]):
        deployment.start_worker()
    clock = time.time()
    ten_images = make_ten_images(deployment.folder) if options["high"] else None
    monitor = Monitor(deployment, results, images.items, options["kill_every"], ten_images, results.prefilled)
    monitor.wait_until_finished()
    results.seconds = monitor.seconds
    results.claims = read_timings(deployment, "claim", clock)
    results.commits = read_timings(deployment, "commit_batch", clock)
    rate = (images.items - results.prefilled) / results.seconds
    log(f"finished in {results.seconds:.1f} s, {rate:.0f} images/s")
    check(deployment, results, images, 10 if options["high"] else 0)
    results.sizes = deployment.table_sizes()
    measure_queries(deployment, results, images)
    results.again = submit(deployment, images.folders[0], Results({}, ""))
    log(f"submitted the first folder again: {results.again}")


def main(
    items: Annotated[int, typer.Option(help="Images.")] = 20_000,
    store: Annotated[Literal["postgresql", "sqlite"], typer.Option(help="Database.")] = "postgresql",
    workers: Annotated[int, typer.Option(min=1, help="Workers that run at the same time.")] = 2,
    kill_every: Annotated[float, typer.Option(help="Seconds between kills of a worker; 0: no kills.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs that share the workers.")] = 1,
    high: Annotated[bool, typer.Option("--high", help="Submit ten images with high priority in the middle.")] = False,
    share: Annotated[
        float, typer.Option("--prefill", min=0, max=0.999, help="Share of items with results before workers start.")
    ] = 0,
    images: Annotated[Path | None, typer.Option(help="Folder that keeps the images for the next run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = Path("docs/scale"),
) -> None:
    """Measure one run and write the results to a JSON file."""
    folder = Path(tempfile.mkdtemp(prefix="captionmill-scale-"))
    options = {"items": items, "store": store, "workers": workers, "kill_every": kill_every, "jobs": jobs}
    options |= {"high": high, "prefill": share}
    memory = psutil.virtual_memory().total // 10**9
    machine = f"{psutil.cpu_count()} cores, {memory} GB, {platform.system()}, Python {platform.python_version()}"
    results = Results(options, machine)
    results.making_seconds, made = timed(lambda: make_images(images or folder / "images", items, jobs))
    results.distinct = made.distinct
    log(f"{count(made.items, 'image')}, {made.distinct} distinct, generated in {results.making_seconds:.1f} s")
    deployment = Deployment(folder, store)
    name = f"{store}-{items}" + (f"-kill-{kill_every:g}s" if kill_every else "") + ("-prefilled" if share else "")
    try:
        measure(deployment, results, made)
    finally:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(asdict(results), separators=(",", ":")) + "\n")
        deployment.close()
    shutil.rmtree(folder, ignore_errors=True)
    if results.end["wrong"]:
        raise SystemExit(f"wrong: {', '.join(results.end['wrong'])}")


if __name__ == "__main__":
    typer.run(main)
