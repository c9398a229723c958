"""The table and the plot of `benchmarks.compare`; `python -m benchmarks.compare_report FOLDER` makes them again."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import COLOURS, INK, markdown_table, new_plot, number, put_into_page, save_plot, write_json

_COLUMNS = (
    "beam 3 unless it says greedy",
    "images/s, steady",
    "with the start",
    "ours / it, steady",
    "with the start",
    "CPU ms an image",
    "memory, MB",
    "same captions",
    "CIDEr-D",
)


def write_report(found: dict[str, Any], out: Path) -> str:
    """Write compare.json and compare.svg, put the table into the page beside the folder, and return the table."""
    write_json(found, out / "compare.json")
    draw(found, out / "compare.svg")
    text = f"{table(found)}\n\n{conditions(found)}"
    plot = f"![Images per second of each way]({out.name}/compare.svg)"
    put_into_page(out.with_suffix(".md"), "compare", f"{plot}\n\n{text}")
    return text


def table(found: dict[str, Any]) -> str:
    """Return one row for each way, the fastest first; ways that failed say why."""
    rows = sorted(found["summary"], key=lambda row: -(row.get("steady") or row.get("with_start") or 0))
    return markdown_table(_COLUMNS, [_cells(found["titles"][row["row"]], row) for row in rows])


def _cells(title: str, row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [f"{title}: failed, {row['error']}".replace("|", "\\|"), *["-"] * (len(_COLUMNS) - 1)]
    same = row.get("same")
    ratios = [number(row.get(name)) for name in ("ours_steady", "ours_with_start")]
    return [
        title,
        number(row["steady"]),
        number(row["with_start"]),
        *ratios,
        number(row["cpu_ms"]),
        number(row["peak_mb"]),
        "-" if same is None else f"{100 * same:.1f} %",
        f"{row['cider']:.3f}" if "cider" in row else "-",
    ]


def conditions(found: dict[str, Any]) -> str:
    """Return the sentence about what was measured and where."""
    machine = found["machine"]
    device = f"{machine['gpu']}, " if machine["gpu"] else ""
    return (
        f"{found['images']} images, model {found['model']}, medians of {found['rounds']} rounds in turns."
        f" {device}{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']},"
        f" load {machine['load']:.1f} at the end."
    )


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw two bars for each way: the steady rate, and the rate with the start."""
    rows = [row for row in found["summary"] if row.get("steady")]
    rows.sort(key=lambda row: row["steady"])
    figure, axes = new_plot(9, 0.9 + 0.55 * len(rows))
    for offset, name, label, colour in ((0.2, "steady", "steady", 0), (-0.2, "with_start", "with the start", 1)):
        values = [row[name] for row in rows]
        bars = axes.barh([i + offset for i in range(len(rows))], values, 0.36, color=COLOURS[colour], label=label)
        axes.bar_label(bars, [number(value) for value in values], padding=3, fontsize=8, color=INK)
    axes.set_yticks(range(len(rows)), [found["titles"][row["row"]].replace("`", "") for row in rows], fontsize=9)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("images/s", color=INK)
    axes.margins(x=0.1)
    axes.legend(fontsize=8, loc="lower right", labelcolor=INK, facecolor="none", edgecolor="none")
    save_plot(figure, path)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    print(write_report(json.loads((out / "compare.json").read_text()), out))


if __name__ == "__main__":
    main()
