"""What the reports of benchmarks share: Markdown tables, plots for light and dark pages, tables within a page."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1f2328"  # of text and lines; becomes the colour of the page's text
_DARK_INK = "#e6edf3"  # where the viewer prefers dark pages
_STYLE = f"<style>svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:{_DARK_INK}}}}}</style>"
COLOURS = ("#3b82c4", "#d9822b", "#3f9c6b", "#a36bc2")  # readable on white and on black


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; all columns but the first are aligned to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None) -> str:
    """Return a number with three significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def new_plot(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of some inches and its axes, in the house's style."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    style(axes)
    return figure, axes


def style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelcolor=INK)
    axes.grid(alpha=0.25, color=INK)
    axes.set_axisbelow(True)


def save_plot(figure: Figure, path: Path) -> None:
    """Write a plot as SVG without a background, of which text and lines are dark on light pages and light on dark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": path.name}):  # the same file for the same numbers
        figure.savefig(path, metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = path.read_text().replace(INK, "currentColor")
    path.write_text(re.sub(r"(<svg\b[^>]*>)", rf"\1\n {_STYLE}", text, count=1))


def write_json(value: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def put_into_page(page: Path, name: str, text: str) -> None:
    """Replace what a page has between `<!-- NAME -->` and `<!-- end of NAME -->`; a page without these stays."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if page.exists() and begin in (old := page.read_text()) and end in old:
        page.write_text(f"{old.partition(begin)[0]}{begin}\n\n{text}\n\n{end}{old.partition(end)[2]}")
