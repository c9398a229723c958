"""Caption a folder in several ways, in turns: ours, a careful script, Ray Data and others; or `make bench-compare`.

python -m benchmarks.compare FOLDER --out docs/speed --images 320 --rounds 3
python -m benchmarks.compare FOLDER --out docs/speed --base ../old/.venv/bin/producer --captions captions.txt

All rows have the same images, the same model and the same beam size, except one that says greedy. The competitors are
in benchmarks/competitors. `steady` is the rate from the first finished batch to the last, so without starting; the rate
with the start is that of the whole command. Writes compare.json with all raw numbers, and the table and the plot.
"""

import argparse
import csv
import hashlib
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare_report import write_report
from benchmarks.competitors.common import FINISHED
from benchmarks.embedded_job import steady_rate
from benchmarks.measured import Measured, run_measured

OURS, BASE = "ours", "base"
UNQUANTISED = "unquantised"


@dataclass(frozen=True)
class Row:
    """One way to caption a folder."""

    title: str
    module: str = ""  # of a competitor; empty: a producer
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)  # environment variables


ROWS = {
    OURS: Row("captionmill, `producer submit --wait`"),
    UNQUANTISED: Row("the same, the encoder not quantised", settings={"CAPTIONING_PRECISION": "fp32"}),
    "bare": Row("(e) bare encoder and search, pixels in memory", "bare"),
    "script": Row("(b) careful script, DataLoader, torch", "careful_script"),
    "ray": Row("(c) Ray Data `map_batches`, torch", "ray_data"),
    "celery": Row("(d) a Celery task for each image, our captioner", "celery_tasks"),
    "seed": Row("(a) one image at a time, fp32, torch", "one_at_a_time"),
    "seed-greedy": Row("(a) the same, greedy", "one_at_a_time", ("--beam", "1")),
}


@dataclass(frozen=True)
class Result:
    """What one run of a row gave."""

    row: str
    round: int
    measured: Measured
    images: int = 0
    steady: float | None = None  # images/s
    captions: Mapping[str, str] = field(default_factory=dict)  # by the name of the file


class Comparison:
    """Runs rows in a temporary folder."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given, self._folder = given, folder
        self.images = folder / "images"
        self._cache = folder / "cache"  # compiled encoders, which all rows keep from one run to the next
        self._cache.mkdir()
        self.count = copy_images(given.folder, self.images, given.images)

    def run(self, key: str, row: Row, turn: int) -> Result:
        """Run a row once. One that fails is a result with an error."""
        out = self._folder / f"{key}-{turn}"
        out.mkdir()
        try:
            return self._run_in(out, key, row, turn)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _run_in(self, out: Path, key: str, row: Row, turn: int) -> Result:
        environment = {**os.environ, "CAPTIONING_DATA_DIR": str(out), "PYTHONWARNINGS": "ignore", **row.settings}
        command = self._competitor(row, out) if row.module else self._producer(key, out)
        measured = run_measured(command, environment, out / "log", self._given.timeout)
        if measured.error:
            return Result(key, turn, measured)
        try:
            captions, steady = (captions_of(out), rate_of(out)) if row.module else stored(out)
        except (OSError, sqlite3.Error, ValueError) as error:
            failed = {**asdict(measured), "error": f"its results cannot be read: {error}"}
            return Result(key, turn, Measured(**failed))
        return Result(key, turn, measured, len(captions), steady, captions)

    def _producer(self, key: str, data: Path) -> list[str]:
        kept = self._cache / key / "runtime"
        if kept.exists():
            shutil.copytree(kept, data / "runtime")
        program = self._given.base if key == BASE else str(Path(sys.executable).with_name("producer"))
        options = ["--wait", "--json", "--model", self._given.model, "--beam-size", str(self._given.beam)]
        return [program, "submit", str(self.images), *options]

    def _competitor(self, row: Row, out: Path) -> list[str]:
        options = ["--beam", str(self._given.beam), "--model", self._given.model, "--cache", str(self._cache / "bare")]
        module = f"benchmarks.competitors.{row.module}"
        return [sys.executable, "-m", module, str(self.images), str(out), *options, *row.options]

    def warm_up(self, key: str, row: Row) -> None:
        """Let a row compile what it keeps, on few images."""
        few, self.images = self.images, self._folder / "few"
        try:
            copy_images(few, self.images, 4)
            out = self._folder / f"{key}-warm"
            out.mkdir()
            self._run_in(out, key, row, 0)
            if (out / "runtime").exists():
                shutil.copytree(out / "runtime", self._cache / key / "runtime")
        finally:
            shutil.rmtree(self.images, ignore_errors=True)
            self.images = few


def copy_images(source: Path, target: Path, most: int) -> int:
    """Copy up to `most` images into a new folder, each content once: the product captions copies only once."""
    target.mkdir()
    seen = set[str]()
    for path in sorted(path for path in source.iterdir() if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in seen and len(seen) < most:
            seen.add(digest)
            shutil.copyfile(path, target / path.name)
    return len(seen)


def stored(data: Path) -> tuple[dict[str, str], float | None]:
    """Return the captions in the database of a data folder, and the rate from the first commit to the last."""
    query = """SELECT files.path, captions.text FROM files JOIN captions ON captions.image_id = files.image_id"""
    with sqlite3.connect(data / "captions.sqlite") as connection:
        captions = {os.fsdecode(path).rpartition("/")[2]: text for path, text in connection.execute(query)}
    return captions, steady_rate(data)


def captions_of(out: Path) -> dict[str, str]:
    """Return the captions that a competitor has written: a CSV file, Arrow files or a database."""
    if (out / "captions.csv").exists():
        with (out / "captions.csv").open(newline="") as file:
            return {name: caption for name, caption in csv.reader(file)}  # noqa: C416, it checks the number of columns
    if (out / "captions.sqlite").exists():
        with sqlite3.connect(out / "captions.sqlite") as connection:
            return dict(connection.execute("SELECT name, caption FROM captions"))
    from pyarrow import parquet

    table = parquet.read_table(out / "captions").to_pydict()
    return dict(zip(table["name"], table["caption"], strict=True))


def rate_of(out: Path) -> float | None:
    """Return the images per second between the first finished batch and the last; None when there was only one."""
    lines = [line.split() for line in (out / FINISHED).read_text().splitlines()]
    times, counts = [float(at) for at, _ in lines], [int(count) for _, count in lines]
    return sum(counts[1:]) / (times[-1] - times[0]) if len(times) > 1 else None


def summary(results: list[Result], references: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return the medians of each row, and ratios to ours of the same round."""
    ours = {result.round: result for result in results if result.row == OURS and not result.measured.error}
    rows = []
    for key in dict.fromkeys(result.row for result in results):
        good = [result for result in results if result.row == key and not result.measured.error]
        if not good:
            failed = next(result for result in results if result.row == key)
            rows.append({"row": key, "error": failed.measured.error})
            continue
        pairs = [(ours[result.round], result) for result in good if result.round in ours]
        rows.append({"row": key, **medians(good), **ratios(pairs), **quality(good[-1], references)})
    return rows


def medians(results: list[Result]) -> dict[str, Any]:
    steady = [result.steady for result in results if result.steady]
    return {
        "runs": len(results),
        "steady": statistics.median(steady) if steady else None,
        "with_start": statistics.median(result.images / result.measured.seconds for result in results),
        "seconds": statistics.median(result.measured.seconds for result in results),
        "cpu_ms": statistics.median(1000 * result.measured.cpu_seconds / result.images for result in results),
        "peak_mb": statistics.median(result.measured.peak_bytes / 1e6 for result in results),
    }


def ratios(pairs: list[tuple[Result, Result]]) -> dict[str, Any]:
    """Return how many times as fast ours was, as medians over rounds, and the share of equal captions."""
    if not pairs:
        return {}
    steady = [ours.steady / other.steady for ours, other in pairs if ours.steady and other.steady]
    ours, other = pairs[-1]
    same = [ours.captions[name] == caption for name, caption in other.captions.items() if name in ours.captions]
    return {
        "ours_steady": statistics.median(steady) if steady else None,
        "ours_with_start": statistics.median(o.measured.seconds / ours.measured.seconds for ours, o in pairs),
        "ours_cpu": statistics.median(o.measured.cpu_seconds / ours.measured.cpu_seconds for ours, o in pairs),
        "same": statistics.mean(same) if same else None,
    }


def quality(result: Result, references: Mapping[str, list[str]]) -> dict[str, float]:
    """Return CIDEr-D of the captions of images that have references; empty without any."""
    captions = {name: caption for name, caption in result.captions.items() if name in references}
    if not captions:
        return {}
    from training.evaluate.metrics import score

    return {"cider": score(captions, {name: references[name] for name in captions})["cider"]}


def read_references(path: Path | None) -> dict[str, list[str]]:
    """Return the captions of a CSV file with the columns image and caption, by image."""
    references: dict[str, list[str]] = {}
    if path is not None:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                references.setdefault(line["image"], []).append(line["caption"])
    return references


def rows_of(given: argparse.Namespace) -> dict[str, Row]:
    """Return the rows that the command line asks for."""
    rows = ROWS | ({BASE: Row(f"captionmill, {given.base_name}")} if given.base else {})
    unknown = set(given.only or ()) - set(rows)
    if unknown:
        raise SystemExit(f"--only: no row is called {', '.join(sorted(unknown))}; rows: {', '.join(rows)}")
    return {key: row for key, row in rows.items() if not given.only or key in given.only}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/speed"), help="folder of the table and the plot")
    parser.add_argument("--images", type=int, default=320, help="at most so many are taken")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--model", default="lstm")
    parser.add_argument("--only", type=lambda text: text.split(","), help="keys of rows, separated by commas")
    parser.add_argument("--base", help="`producer` of another version, for one more row")
    parser.add_argument("--base-name", default="another version")
    parser.add_argument("--captions", type=Path, help="CSV file with the columns image and caption, for CIDEr-D")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds of one run")
    given = parser.parse_args()
    rows, references = rows_of(given), read_references(given.captions)
    with tempfile.TemporaryDirectory(prefix="captionmill-compare-") as temporary:
        compare(given, rows, references, Comparison(given, Path(temporary)))


def compare(
    given: argparse.Namespace, rows: dict[str, Row], references: Mapping[str, list[str]], comparison: Comparison
) -> None:
    """Run the rows in turns and write what they gave."""
    if not comparison.count:
        raise SystemExit(f"{given.folder} has no files")
    for key, row in rows.items():
        comparison.warm_up(key, row)
    results = []
    for turn in range(1, given.rounds + 1):
        for key, row in rows.items():
            results.append(comparison.run(key, row, turn))
            print(line_of(results[-1]), flush=True)
    found = {
        "images": comparison.count,
        "rounds": given.rounds,
        "beam": given.beam,
        "model": given.model,
        "machine": machine(),
        "titles": {key: row.title for key, row in rows.items()},
        "summary": summary(results, references),
        "runs": [asdict(result) for result in results],
    }
    print(write_report(found, given.out))


def line_of(result: Result) -> str:
    measured = result.measured
    if measured.error:
        return f"round {result.round}  {result.row:12} failed: {measured.error}"
    steady = f"{result.steady:7.1f}" if result.steady else "      -"
    return (
        f"round {result.round}  {result.row:12} {steady} images/s steady,"
        f" {result.images / measured.seconds:6.1f} with the start, {measured.cpu_seconds:6.1f} CPU s,"
        f" {measured.peak_bytes / 1e6:6.0f} MB"
    )


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import torch

    from captioning.decoding.pool import available_cores

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": names[0].partition(": ")[2] if names else "unknown",
        "cores": available_cores(),
        "gpu": gpu,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
