"""Draw what `scale.py` measured, from its JSON files, and print the figures as a Markdown table.

python -m benchmarks.scale_plots docs/scale
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = {"postgresql": "#336791", "sqlite": "#d9822b"}
KILL_COLOUR = "#c0392b"
Run = dict[str, Any]
Points = list[tuple[float, float]]
MAX_POINTS = 300  # of a series in a drawing; more cannot be distinguished


def _done_at(run: Run) -> Callable[[float], float]:
    """Return a function from seconds since the start to the number of finished items."""
    samples = [(s["seconds"], s["done"]) for s in run["run"]]

    def at(seconds: float) -> float:
        before = [done for when, done in samples if when <= seconds]
        return max(1.0, float(before[-1] if before else samples[0][1]))

    return at


def _submit(run: Run) -> Points:
    """Return the microseconds per file of the producers, one point for each hundredth of the items."""
    points: Points = []
    last: tuple[float, float] = (0.0, 0.0)
    for sample in run["submit"]:
        seconds, items = sample["seconds"], sample["items"]
        if seconds < last[0]:  # the next producer
            last = (seconds, items)
        elif items - last[1] >= run["options"]["items"] / 100:
            points.append((items, 1e6 * (seconds - last[0]) / (items - last[1])))
            last = (seconds, items)
    return points


def _medians_of_timings(run: Run, name: str, scale: Callable[[float, float], float]) -> Points:
    """Return about twenty medians of `scale(seconds, images)` over a run's claims or commits."""
    at = _done_at(run)
    rows = run[name]
    size = max(1, len(rows) // 20)
    parts = (rows[i : i + size] for i in range(0, len(rows), size))
    return [(at(part[0][0]), statistics.median(scale(seconds, n) for _, seconds, n in part)) for part in parts]


def _medians_of_samples(run: Run, samples: str, name: str) -> Points:
    """Return about twelve medians, in milliseconds, of a duration that was sampled during a run."""
    rows = [s for s in run[samples] if s["done"] > 0]
    size = max(1, len(rows) // 12)
    parts = (rows[i : i + size] for i in range(0, len(rows), size))
    return [(part[0]["done"], statistics.median(1000 * s[name] for s in part)) for part in parts]


PANELS: dict[str, Callable[[Run], Points]] = {
    "submit, µs per file": _submit,
    "claim of a chunk, ms": lambda run: _medians_of_timings(run, "claims", lambda seconds, _: 1000 * seconds),
    "commit, ms per image": lambda run: _medians_of_timings(run, "commits", lambda seconds, n: 1000 * seconds / n),
    "status, ms": lambda run: _medians_of_samples(run, "run", "status_seconds"),
    "search for a word in 6 %, ms": lambda run: _medians_of_samples(run, "searches", "common_seconds"),
    "search for a rare word, ms": lambda run: _medians_of_samples(run, "searches", "rare_seconds"),
}


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)


def draw_costs(runs: Iterable[Run], path: Path) -> None:
    """Draw the cost of an item or a query against the number of items in the store."""
    runs = list(runs)
    figure, grid = plt.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
    for axes, (name, points_of) in zip(grid.flat, PANELS.items(), strict=True):
        for store, colour in COLOURS.items():
            points = [p for run in runs if run["options"]["store"] == store for p in points_of(run)]
            if points:
                axes.plot(*zip(*points, strict=True), ".", color=colour, label=store, alpha=0.7)
        axes.set_xscale("log")
        axes.set_title(name, fontsize=10)
        _style(axes)
        axes.margins(y=0.2)
        axes.set_ylim(0, 1.3 * _quantile(axes))
    grid[0][0].legend(fontsize=8)
    figure.supxlabel("items in the store", fontsize=9)
    _save(figure, path)


def _quantile(axes: Axes) -> float:
    """Return the 95 % quantile of all values: the few above it waited for a busy processor."""
    values = sorted(float(y) for line in axes.lines for y in line.get_ydata())  # type: ignore[union-attr]
    return values[int(0.95 * (len(values) - 1))] if values else 1.0


def draw_kills(run: Run, path: Path) -> None:
    """Draw the number of finished items while workers are killed."""
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    samples = run["run"]
    axes.plot([s["seconds"] for s in samples], [s["done"] for s in samples], color=COLOURS[run["options"]["store"]])
    axes.vlines(run["kills"], 0, run["options"]["items"], color=KILL_COLOUR, alpha=0.35, lw=0.7, label="kill -9")
    axes.set_xlabel("seconds")
    axes.set_ylabel("items done")
    axes.legend(fontsize=8, loc="lower right")
    _style(axes)
    _save(figure, path)


def draw_shares(run: Run, path: Path) -> None:
    """Draw the progress of jobs that share the workers, and the time of the job with high priority."""
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    start = run["run"][0]["jobs"]
    for job, first in sorted(start.items()):
        axes.plot([s["seconds"] for s in run["run"]], [s["jobs"][job] - first for s in run["run"]], label=f"job {job}")
    if run["high"]:
        at, took = run["high"]["at"], run["high"]["seconds"]
        axes.axvspan(at - took, at, color="#27ae60", alpha=0.5, label=f"ten images, high priority: {took:.1f} s")
    axes.vlines(run["kills"], 0, axes.get_ylim()[1], color=KILL_COLOUR, alpha=0.3, lw=0.7, label="kill -9")
    axes.set_xlabel("seconds")
    axes.set_ylabel("items done since the start")
    axes.legend(fontsize=8, loc="upper left")
    _style(axes)
    _save(figure, path)


def draw_memory(runs: Iterable[Run], path: Path) -> None:
    """Draw the memory of producer and broker during registration, and of the broker during captioning."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for run in runs:
        store = run["options"]["store"]
        samples = _thin([s for s in run["submit"] if s["bytes"]])
        left.plot([s["items"] for s in samples], [s["bytes"] / 1e6 for s in samples], ".", ms=3, color=COLOURS[store])
        for samples, x in ((run["submit"], "items"), (run["run"], "done")):
            points = [(s[x], s["broker_bytes"] / 1e6) for s in _thin(samples)]
            label = store if x == "done" else None
            right.plot(*zip(*points, strict=True), ".", ms=3, color=COLOURS[store], label=label)
    left.set_title("producer, MB resident", fontsize=10)
    right.set_title("broker, MB used", fontsize=10)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("items", fontsize=9)
        _style(axes)
    _save(figure, path)


def _thin(samples: list[Any]) -> list[Any]:
    return samples[:: len(samples) // MAX_POINTS + 1]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


COLUMNS: dict[str, Callable[[Run], float]] = {
    "submit, µs per file": lambda run: 1e6 * sum(s["seconds"] for s in run["submits"]) / run["options"]["items"],
    "producer, MB": lambda run: max(s["peak_bytes"] for s in run["submits"]) / 1e6,
    "images/s": lambda run: (run["options"]["items"] - run["prefilled"]) / run["seconds"],
    "claim, ms": lambda run: statistics.median(1000 * seconds for _, seconds, _ in run["claims"]),
    "commit, ms per image": lambda run: statistics.median(1000 * seconds / n for _, seconds, n in run["commits"]),
    "status, ms": lambda run: statistics.median(1000 * s["status_seconds"] for s in run["run"]),
    "search 6 %, ms": lambda run: 1000 * run["searches"][-1]["common_seconds"],
    "search rare, ms": lambda run: 1000 * run["searches"][-1]["rare_seconds"],
    "broker, MB": lambda run: max(s["broker_bytes"] for s in run["run"]) / 1e6,
    "bytes per image": lambda run: sum(run["sizes"].values()) / run["options"]["items"],
}


def table(runs: Iterable[tuple[str, Run]]) -> str:
    """Return the figures of each run as a Markdown table."""
    rows = [["run", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for name, run in runs:
        values = [column(run) for column in COLUMNS.values()]
        rows.append([name, *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Draw all plots for which the folder has measurements."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    complete = {name: run for name, run in runs.items() if run["commits"] and run["end"]}
    by_size = sorted(complete.values(), key=lambda run: run["options"]["items"])
    largest = {run["options"]["store"]: run for run in by_size}.values()
    draw_costs(largest, folder / "cost.svg")
    draw_memory(largest, folder / "memory.svg")
    for run in complete.values():
        if run["kills"] and run["options"]["jobs"] == 1:
            draw_kills(run, folder / f"kills-{run['options']['store']}.svg")
        if run["options"]["jobs"] > 1:
            draw_shares(run, folder / f"shares-{run['options']['store']}.svg")
    print(table(complete.items()))


if __name__ == "__main__":
    main()
