"""Caption a folder in several ways, in turns: ours, a careful script, Ray Data and others; or `make bench-compare`.

python -m benchmarks.compare FOLDER --out docs/speed --images 320 --rounds 3
python -m benchmarks.compare FOLDER --out tried --tried
python -m benchmarks.compare FOLDER --out docs/speed --base ../old/.venv/bin/producer --captions captions.txt

All rows have the same images, the same model and the same beam size, except one that says greedy. The competitors are
in benchmarks/competitors. `steady` is the rate from the first finished batch to the last, so without starting; the rate
with the start is that of the whole command. Writes compare.json with all raw numbers, and the table and the plot.
"""

import argparse
import hashlib
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.compare_report import write_report
from benchmarks.compare_results import Result, captions_of, rate_of, read_references, stored, summary
from benchmarks.compare_rows import BASE, Row, rows_of
from benchmarks.measured import Measured, run_measured


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
        model = self._given.base_model if key == BASE and self._given.base_model else self._given.model
        options = ["--wait", "--json", "--model", model, "--beam-size", str(self._given.beam)]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/speed"), help="folder of the table and the plot")
    parser.add_argument("--images", type=int, default=320, help="at most so many are taken")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--model", default="lstm")
    parser.add_argument("--only", type=lambda text: text.split(","), help="keys of rows, separated by commas")
    parser.add_argument("--tried", action="store_true", help="only competitors, with their options and with others")
    parser.add_argument("--base", help="`producer` of another version, for one more row")
    parser.add_argument("--base-name", default="another version")
    parser.add_argument("--base-model", help="its model, if the name is another one")
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

    from captioning.environment import available_cores

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
