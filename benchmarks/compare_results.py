"""What runs of `benchmarks.compare` gave: captions and rates as each row keeps them, medians, and ratios to ours."""

import csv
import os
import sqlite3
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare_rows import OURS
from benchmarks.competitors.common import FINISHED
from benchmarks.embedded_job import steady_rate
from benchmarks.measured import Measured


@dataclass(frozen=True)
class Result:
    """What one run of a row gave."""

    row: str
    round: int
    measured: Measured
    images: int = 0
    steady: float | None = None  # images/s
    captions: Mapping[str, str] = field(default_factory=dict)  # by the name of the file


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
