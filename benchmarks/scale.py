"""Many images, a stub for the model, everything else real: what an item costs as a job grows, and what kills cost.

Submits with real producers, captions with real workers, which may be killed every so often, and samples the broker, the
database and the processes meanwhile. Everything that was measured ends in one JSON file; `scale_plots.py` draws it.

    python -m benchmarks.scale --items 20000 --store sqlite --out figures
    python -m benchmarks.scale --items 1000000 --store postgresql --jobs 2 --high --kill-every 60 --out docs/scale
    python -m benchmarks.scale --items 1000000 --store postgresql --jobs 2 --forward 0.95  # the last twentieth
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
from typing import Annotated, Any

import psutil
import typer

from benchmarks.scale_deployment import World, resident
from benchmarks.scale_forward import put_forward
from benchmarks.scale_images import Images, make_images, make_ten
from captioning.settings import read_settings
from captioning.store import captions, jobs, search
from captioning.store.database import Database

COMMON, EVERYWHERE = "dog", "a"  # in one caption of sixteen; in all
SAMPLE_SECONDS, SEARCH_SECONDS = 2.0, 15.0
STALL_SECONDS = 180.0  # without an image, after which a run is given up
_MEGABYTE = 1_000_000


@dataclass
class Measured:
    """Everything that a run says of itself."""

    options: dict[str, Any]
    machine: str
    distinct: int = 0
    making_seconds: float = 0.0
    forward: int = 0  # items whose rows were there before a worker was started
    submit: list[dict[str, float]] = field(default_factory=list)  # samples while producers walk
    submits: list[dict[str, float]] = field(default_factory=list)  # one a producer
    again: dict[str, float] = field(default_factory=dict)
    run: list[dict[str, Any]] = field(default_factory=list)  # samples while workers work
    searches: list[dict[str, float]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)  # seconds since workers were started
    high: dict[str, float] = field(default_factory=dict)
    claims: list[list[float]] = field(default_factory=list)  # when, seconds, images; thinned out
    records: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    export: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)


def say(text: str) -> None:
    """Log a line."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds something took, and what it gave."""
    started = time.perf_counter()
    result = act()
    return time.perf_counter() - started, result


# -- submitting --


def submit(world: World, folder: Path, measured: Measured, *words: str) -> dict[str, float]:
    """Run a producer to its end; sample its memory and how far it is."""
    started = time.monotonic()
    before = _registered(world)
    process = world.producer("submit", str(folder), "--json", *words)
    val_limit, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        time.sleep(0.5)
        peak = max(peak, resident(val_limit))
        sample = {"seconds": time.monotonic() - started, "items": _registered(world), "bytes": resident(val_limit)}
        measured.submit.append(sample | {"broker_bytes": world.queue()["broker_bytes"]})
    if process.returncode:
        raise SystemExit(f"the producer ended with {process.returncode}: see {world.folder}/logs/producer.log")
    seconds = time.monotonic() - started
    return {"seconds": seconds, "items": _registered(world) - before, "peak_bytes": peak}


def _registered(world: World) -> int:
    return world.one("SELECT sum(size) FROM chunks")


# -- working --


@dataclass
class Watch:
    """Looks at a run until it is over; kills, and submits ten images in a hurry, when it is time."""

    world: World
    measured: Measured
    items: int
    kill_every: float
    ten: Path | None
    forward: int
    started: float = field(default_factory=time.monotonic)
    hurry: tuple[float, subprocess.Popen[bytes]] | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def until_over(self) -> None:
        """Return when every job is over. Ends the program when nothing moves any more."""
        searched, moved, last = -SEARCH_SECONDS, self.seconds, -1
        while True:
            progress = self._sample()
            done = sum(p.done for p in progress)
            if done != last:
                moved, last = self.seconds, done
            if self.seconds - searched > SEARCH_SECONDS:
                searched = self.seconds
                self._search(done)
            if all(p.is_finished for p in progress) and (self.ten is None or self.measured.high):
                return
            if self.seconds - moved > STALL_SECONDS:
                raise SystemExit(f"nothing has moved for {STALL_SECONDS:g} s: see {self.world.folder}/logs")
            self._strike(done)
            time.sleep(SAMPLE_SECONDS if self.hurry is None or "seconds" in self.measured.high else 0.2)

    def _sample(self) -> list[jobs.Progress]:
        db = self.world.db
        took, progress = timed(lambda: jobs.progress(db))
        by_job = {str(p.job): p.done for p in progress if p.priority == 0}
        memory = self.world.resident()
        sample = {"seconds": self.seconds, "jobs": by_job, "done": sum(by_job.values()), "status_seconds": took}
        self.measured.run.append(sample | {"worker_bytes": memory} | self.world.queue())
        if len(self.measured.run) % 15 == 1:
            say(f"{self.seconds:7.1f} s  {sample['done']:>8} done, {took * 1000:.1f} ms to ask")
        self._see_the_high(progress)
        return progress

    def _see_the_high(self, progress: list[jobs.Progress]) -> None:
        high = [p for p in progress if p.priority > 0]
        if self.hurry is not None and high and high[0].is_finished and "seconds" not in self.measured.high:
            self.measured.high = {"seconds": time.monotonic() - self.hurry[0], "at": self.seconds}
            say(f"the ten in a hurry took {self.measured.high['seconds']:.1f} s")

    def _search(self, done: int) -> None:
        self.measured.searches.append(
            {"seconds": self.seconds, "done": done} | searched(self.world.db, _newest_word(self.world))
        )

    def _strike(self, done: int) -> None:
        if self.ten is not None and self.hurry is None and done > (self.items + self.forward) / 2:
            self.hurry = (time.monotonic(), self.world.producer("submit", str(self.ten), "--priority", "high"))
        if self.kill_every and self.seconds > self.kill_every * (len(self.measured.kills) + 1):
            self.measured.kills.append(self.seconds)
            self.world.kill_oldest()
            self.world.start_worker()


def searched(db: Database, rare: str) -> dict[str, float]:
    """Return how long searches take, and how many files they find."""
    common, (common_found, _) = timed(lambda: search.search(db, COMMON, 20))
    seldom, (rare_found, _) = timed(lambda: search.search(db, rare, 20))
    return {"common_seconds": common, "common": common_found, "rare_seconds": seldom, "rare": rare_found}


def _newest_word(world: World) -> str:
    """Return the last word of the newest caption, which hardly another has."""
    rows = world.ask("SELECT text FROM captions ORDER BY id DESC LIMIT 1")
    return str(rows[0][0]).rpartition(" ")[2] if rows else "nothing"


# -- afterwards --


def check(world: World, measured: Measured, images: Images, high: int) -> None:
    """Compare what the rows say at the end with what must be."""
    chunk = read_settings().chunk_size
    progress = jobs.progress(world.db)
    calls = (world.folder / "place" / "model-calls").stat().st_size
    distinct, items = images.distinct + high, images.items + high
    counted = {name: sum(getattr(p, name) for p in progress) for name in ("captioned", "reused", "failed", "total")}
    rested = _at_rest(world)
    measured.end = counted | {
        "distinct": distinct,
        "captions": world.one("SELECT count(*) FROM captions"),
        "contents_with_caption": world.one("SELECT count(DISTINCT image_id) FROM captions"),
        "model_runs": sum(p.model_runs for p in progress),
        "model_calls": calls,
        "kills": len(measured.kills),
        "bound": distinct + len(measured.kills) * chunk,
        "crashes_blamed": world.one("SELECT sum(attempts) FROM items"),
        "running_chunks": world.one("SELECT count(*) FROM chunks WHERE state = 'running'"),
        "broker_at_rest": rested,
    }
    end = measured.end
    wrong = [
        name
        for name, holds in {
            "captioned + reused + failed = items": counted["captioned"] + counted["reused"] + counted["failed"]
            == items,
            "nothing failed": counted["failed"] == 0,
            "a caption a content": end["captions"] == end["contents_with_caption"] == distinct,
            "model runs within kills x chunk": distinct <= calls <= end["bound"] and end["model_runs"] <= end["bound"],
            "no image blamed": end["crashes_blamed"] == 0,
            "no lease held": end["running_chunks"] == 0,
            "the broker at rest": rested,
        }.items()
        if not holds
    ]
    end["wrong"] = wrong
    say(json.dumps(end))


def _at_rest(world: World) -> bool:
    """Wait until the broker has nothing more: what killed workers had in hand, it hands out again in a minute."""
    deadline = time.monotonic() + 150
    while not world.broker.at_rest():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def ask_at_the_end(world: World, measured: Measured, images: Images) -> None:
    """Time what people ask when everything is done."""
    measured.searches.append(
        {"seconds": measured.seconds, "done": images.items} | searched(world.db, _newest_word(world))
    )
    took, (found, _) = timed(lambda: search.search(world.db, EVERYWHERE, 20))
    measured.end |= {"everywhere_seconds": took, "everywhere": found}
    job = jobs.progress(world.db)[-1].job
    first, rows = timed(lambda: sum(1 for _ in islice(captions.export_rows(world.db), 20_000)))
    measured.export = {"first_20000_seconds": first}
    took, rows = timed(lambda: sum(1 for _ in captions.export_rows(world.db, job_id=job)))
    measured.export |= {"job_seconds": took, "job_rows": rows}
    took, rows = timed(lambda: sum(1 for _ in captions.export_rows(world.db)))
    measured.export |= {"all_seconds": took, "all_rows": rows}
    say(f"asked: {measured.searches[-1]}, {measured.export}")


def timings(world: World, name: str, started: float) -> list[list[float]]:
    """Return what workers noted of their claims or commits, at most some thousands, spread over the run."""
    rows = []
    for file in (world.folder / "timings").glob(f"{name}-*"):
        for line in file.read_text().splitlines():
            words = line.split()
            if len(words) == 3:  # the last may be cut short by a kill
                rows.append([round(float(words[0]) - started, 2), float(words[1]), int(words[2])])
    rows.sort()
    return rows[:: max(1, len(rows) // 1000)]


def measure(world: World, measured: Measured, images: Images) -> None:
    """Submit, caption, check."""
    options = measured.options
    for folder in images.folders:
        measured.submits.append(submit(world, folder, measured))
        say(f"submitted {folder.name}: {measured.submits[-1]}")
    if options["forward"]:
        each = images.items // len(images.folders)
        took, measured.forward = timed(lambda: put_forward(world, each, options["forward"]))
        say(f"{measured.forward} items put forward in {took:.1f} s")
    for _ in range(options["workers"]):
        world.start_worker()
    clock = time.time()
    ten = make_ten(world.folder) if options["high"] else None
    watch = Watch(world, measured, images.items, options["kill_every"], ten, measured.forward)
    watch.until_over()
    measured.seconds = watch.seconds
    measured.claims, measured.records = (timings(world, name, clock) for name in ("claim", "record"))
    say(f"done in {measured.seconds:.1f} s, {(images.items - measured.forward) / measured.seconds:.0f} a second")
    check(world, measured, images, 10 if options["high"] else 0)
    measured.sizes = world.sizes()
    ask_at_the_end(world, measured, images)
    measured.again = submit(world, images.folders[0], Measured({}, ""))
    say(f"the first folder again: {measured.again}")


def main(
    items: Annotated[int, typer.Option(help="Images.")] = 20_000,
    store: Annotated[str, typer.Option(help="postgresql or sqlite.")] = "postgresql",
    workers: Annotated[int, typer.Option(min=1, help="Workers at a time.")] = 2,
    kill_every: Annotated[float, typer.Option(help="Seconds between kills of a worker; 0: none.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs that share the workers.")] = 1,
    high: Annotated[bool, typer.Option("--high", help="Submit ten images in a hurry in the middle.")] = False,
    forward: Annotated[float, typer.Option(min=0, max=0.999, help="Share that is done before workers start.")] = 0,
    images: Annotated[Path | None, typer.Option(help="Folder that keeps the images for the next run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = Path("docs/scale"),
) -> None:
    """Run once, and write what was measured."""
    place = Path(tempfile.mkdtemp(prefix="captionmill-scale-"))
    options = {"items": items, "store": store, "workers": workers, "kill_every": kill_every, "jobs": jobs}
    options |= {"high": high, "forward": forward}
    measured = Measured(options, f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total // 10**9} GB, "
                        f"{platform.system()}, Python {platform.python_version()}")  # fmt: skip
    measured.making_seconds, made = timed(lambda: make_images(images or place / "images", items, jobs))
    measured.distinct = made.distinct
    say(f"{made.items} images, {made.distinct} different, made in {measured.making_seconds:.1f} s")
    world = World(place, store)
    name = f"{store}-{items}" + (f"-kill-{kill_every:g}s" if kill_every else "") + ("-forward" if forward else "")
    try:
        measure(world, measured, made)
    finally:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(asdict(measured), separators=(",", ":")) + "\n")
        world.close()
    shutil.rmtree(place, ignore_errors=True)
    if measured.end["wrong"]:
        raise SystemExit(f"wrong: {', '.join(measured.end['wrong'])}")


if __name__ == "__main__":
    typer.run(main)
