"""Draws what `scale.py` measured, from its JSON files, and prints the figures as Markdown.

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
Run = dict[str, Any]
Points = list[tuple[float, float]]
MOST_POINTS = 300  # of a series in a drawing: more can't be seen


def _done_at(run: Run) -> Callable[[float], float]:
    """Return how many items were done at a moment of a run, between samples as well."""
    samples = [(s["seconds"], s["done"]) for s in run["run"]]

    def at(seconds: float) -> float:
        before = [done for when, done in samples if when <= seconds]
        return max(1.0, float(before[-1] if before else samples[0][1]))

    return at


def _submit(run: Run) -> Points:
    """Return microseconds a file as a producer walks, over stretches of a hundredth of the whole."""
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


def _noted(run: Run, name: str, scale: Callable[[float, float], float]) -> Points:
    at = _done_at(run)
    rows = run[name]
    size = max(1, len(rows) // 20)
    stretches = (rows[i : i + size] for i in range(0, len(rows), size))
    return [(at(rows[0][0]), statistics.median(scale(took, n) for _, took, n in rows)) for rows in stretches]


def _asked(run: Run, samples: str, name: str) -> Points:
    rows = [s for s in run[samples] if s["done"] > 0]
    size = max(1, len(rows) // 12)
    stretches = (rows[i : i + size] for i in range(0, len(rows), size))
    return [(rows[0]["done"], statistics.median(1000 * s[name] for s in rows)) for rows in stretches]


PANELS: dict[str, Callable[[Run], Points]] = {
    "submit, µs a file": _submit,
    "claim of a chunk, ms": lambda run: _noted(run, "claims", lambda took, _: 1000 * took),
    "commit, ms an image": lambda run: _noted(run, "records", lambda took, n: 1000 * took / n),
    "status, ms": lambda run: _asked(run, "run", "status_seconds"),
    "search for a word in 6 %, ms": lambda run: _asked(run, "searches", "common_seconds"),
    "search for a rare word, ms": lambda run: _asked(run, "searches", "rare_seconds"),
}


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)


def draw_costs(runs: Iterable[Run], path: Path) -> None:
    """Draw what an item or a question costs, against how many items the store has done."""
    runs = list(runs)
    figure, grid = plt.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
    for axes, (name, points_of) in zip(grid.flat, PANELS.items(), strict=True):
        for store, colour in COLOURS.items():
            points = [p for run in runs if run["options"]["store"] == store for p in points_of(run)]
            axes.plot(*zip(*points, strict=True), ".", color=colour, label=store, alpha=0.7) if points else None
        axes.set_xscale("log")
        axes.set_title(name, fontsize=10)
        _bare(axes)
        axes.margins(y=0.2)
        axes.set_ylim(0, 1.3 * _high(axes))
    grid[0][0].legend(fontsize=8)
    figure.supxlabel("items in the store", fontsize=9)
    _save(figure, path)


def _high(axes: Axes) -> float:
    """Return what nearly all points lie below; the others waited for a processor that somebody else had."""
    values = sorted(float(y) for line in axes.lines for y in line.get_ydata())  # type: ignore[union-attr]
    return values[int(0.95 * (len(values) - 1))] if values else 1.0


def draw_kills(run: Run, path: Path) -> None:
    """Draw how many items are done as workers are killed."""
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    samples = run["run"]
    axes.plot([s["seconds"] for s in samples], [s["done"] for s in samples], color=COLOURS[run["options"]["store"]])
    axes.vlines(run["kills"], 0, run["options"]["items"], color="#c0392b", alpha=0.35, lw=0.7, label="kill -9")
    axes.set_xlabel("seconds")
    axes.set_ylabel("items done")
    axes.legend(fontsize=8, loc="lower right")
    _bare(axes)
    _save(figure, path)


def draw_shares(run: Run, path: Path) -> None:
    """Draw how two jobs get on beside each other, and when ten images in a hurry came and were done."""
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    start = run["run"][0]["jobs"]
    for job, begun in sorted(start.items()):
        axes.plot([s["seconds"] for s in run["run"]], [s["jobs"][job] - begun for s in run["run"]], label=f"job {job}")
    if run["high"]:
        at, took = run["high"]["at"], run["high"]["seconds"]
        axes.axvspan(at - took, at, color="#27ae60", alpha=0.5, label=f"ten in a hurry: {took:.1f} s")
    axes.vlines(run["kills"], 0, axes.get_ylim()[1], color="#c0392b", alpha=0.3, lw=0.7, label="kill -9")
    axes.set_xlabel("seconds")
    axes.set_ylabel("items done since the start")
    axes.legend(fontsize=8, loc="upper left")
    _bare(axes)
    _save(figure, path)


def draw_memory(runs: Iterable[Run], path: Path) -> None:
    """Draw what producer and broker hold in memory as files are registered, and the broker as they are captioned."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for run in runs:
        store = run["options"]["store"]
        walking = _thin([s for s in run["submit"] if s["bytes"]])
        left.plot([s["items"] for s in walking], [s["bytes"] / 1e6 for s in walking], ".", ms=3, color=COLOURS[store])
        for samples, x in ((run["submit"], "items"), (run["run"], "done")):
            spots = [(s[x], s["broker_bytes"] / 1e6) for s in _thin(samples)]
            right.plot(*zip(*spots, strict=True), ".", ms=3, color=COLOURS[store], label=store if x == "done" else None)
    left.set_title("producer, MB resident", fontsize=10)
    right.set_title("broker, MB used", fontsize=10)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("items", fontsize=9)
        _bare(axes)
    _save(figure, path)


def _thin(samples: list[Any]) -> list[Any]:
    return samples[:: len(samples) // MOST_POINTS + 1]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def figures(runs: Iterable[tuple[str, Run]]) -> str:
    """Return a table of what each run came to."""
    names = ["run", "submit, µs a file", "producer, MB", "items/s", "claim, ms", "commit, ms an image", "status, ms",
             "search 6 %, ms", "search rare, ms", "broker, MB", "bytes an image"]  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for name, run in runs:
        items = run["options"]["items"]
        took = sum(s["seconds"] for s in run["submits"])
        cells = [
            1e6 * took / items,
            max(s["peak_bytes"] for s in run["submits"]) / 1e6,
            (items - run.get("forward", 0)) / run["seconds"] if run["seconds"] else 0,
            statistics.median(1000 * row[1] for row in run["claims"]),
            statistics.median(1000 * row[1] / row[2] for row in run["records"]),
            statistics.median(1000 * s["status_seconds"] for s in run["run"]),
            1000 * run["searches"][-1]["common_seconds"],
            1000 * run["searches"][-1]["rare_seconds"],
            max(s["broker_bytes"] for s in run["run"]) / 1e6,
            sum(run["sizes"].values()) / items,
        ]
        lines.append(
            f"| {name} | " + " | ".join(f"{cell:.3g}" if cell < 100 else f"{cell:.0f}" for cell in cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Draw everything that the JSON files of a folder allow."""
    folder = Path(sys.argv[1])
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    whole = {name: run for name, run in runs.items() if run.get("records") and run["end"]}
    by_size = sorted(whole.values(), key=lambda run: run["options"]["items"])
    largest = {run["options"]["store"]: run for run in by_size}.values()
    draw_costs(largest, folder / "cost.svg")
    draw_memory(largest, folder / "memory.svg")
    for run in whole.values():
        if run["kills"] and run["options"]["jobs"] == 1:
            draw_kills(run, folder / f"kills-{run['options']['store']}.svg")
        if run["options"]["jobs"] > 1:
            draw_shares(run, folder / f"shares-{run['options']['store']}.svg")
    print(figures(whole.items()))


if __name__ == "__main__":
    main()
