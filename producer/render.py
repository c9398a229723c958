"""What a person sees: tables for a terminal, plain where piped, JSON where asked. No control character gets out."""

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from captioning.store.captions import FileRow
from captioning.store.jobs import Progress
from captioning.terminal import printable


def json_text(value: Any) -> str:
    """Return a value as JSON on one line: readable, but for what a terminal would obey or a person not see."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def say_json(value: Any) -> None:
    """Print one JSON value."""
    print(json_text(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, wide: str = "") -> None:
    """Print a table as wide as the terminal; the column named `wide` takes what the others leave.

    Where it isn't a terminal, a line a row, cells separated by tabs, so that other programs can cut it.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in ([list(columns), *cells])))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        if name == wide:
            shown.add_column(name, overflow="fold", ratio=1, min_width=8)
        elif name == "path":
            shown.add_column(name, overflow="fold", max_width=max(20, width * 2 // 5))
        else:
            shown.add_column(name, no_wrap=True)
    for row in cells:
        shown.add_row(*row)
    Console(width=width, highlight=False, markup=False, emoji=False).print(shown)


def percent(confidence: float | None) -> str:
    """Return a confidence for people."""
    return "" if confidence is None else f"{100 * confidence:.0f} %"


def images(rows: Sequence[FileRow], *, strip: str = "") -> None:
    """Print captions with their images."""
    table(
        ("path", "caption", "confidence"),
        ((row.path.removeprefix(strip), row.caption, percent(row.confidence)) for row in rows),
        wide="caption",
    )


def common_folder(rows: Sequence[FileRow]) -> str:
    """Return the folder that all paths share, with its slash, so that a table may leave it out."""
    folders = [row.path.rpartition("/")[0] + "/" for row in rows]
    if not folders:
        return ""
    first, last = min(folders), max(folders)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same].rpartition("/")[0] + "/"


def progress_json(progress: Progress) -> dict[str, Any]:
    """Return where a job stands as JSON has it."""
    fields = asdict(progress)
    fields["new"] = fields.pop("total")
    fields["scanned"] = fields["new"] + fields["known"]
    return fields


def moment(seconds: float | None) -> str:
    """Return a time for people, in their time zone."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
