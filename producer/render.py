"""What `producer` prints: tables on a terminal, tab-separated lines in a pipe, JSON on request.

Functions take values and print them; they read neither settings nor the database. No control character of a file name
or a caption reaches the terminal.
"""

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table

from captioning.paths import text_of
from captioning.store.captions import FileRow
from captioning.terminal import printable

_LEAST = 16  # cells that a column of words needs on a narrow terminal


def json_text(value: Any) -> str:
    """Return a value as one line of JSON: readable, with characters that a terminal obeys or hides escaped."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print(json_text(value))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, wrap: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Print a table that fits the terminal; values in the columns of `wrap` may take several lines, others never do.

    A terminal that is too narrow does not show the columns of `optional`, beginning with the first of these. In a pipe,
    print one line per row with values separated by tabs.
    """
    texts = [["" if value is None else printable(str(value)) for value in row] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in ([list(columns), *texts])))
        return
    width = _terminal_width()
    gap, most = 2 if width >= 80 else 1, max(20, width * 2 // 5)  # the text beside a path needs room to be read
    needed = {
        name: min(max(map(cell_len, (name, *cells))), most if name in wrap else width)
        for name, *cells in zip(columns, *texts, strict=True)
    }
    for name in optional:
        least = (min(cells, _LEAST) if n in wrap and n != "path" else cells for n, cells in needed.items())
        if sum(least) + gap * len(needed) > width:
            del needed[name]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for name in needed:
        table.add_column(name, overflow="fold", no_wrap=name == "path" or name not in wrap, min_width=len(name))
    for row in texts:
        cells = zip(columns, row, strict=True)
        table.add_row(*(_folded(text, most) if name == "path" else text for name, text in cells if name in needed))
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def _folded(path: str, width: int) -> str:
    """Return a path on lines of at most `width` cells, which end after a slash where names fit on a line."""
    parts = (piece for part in re.findall("[^/]*/|[^/]+", path) for piece in chop_cells(part, width))
    lines = [""]
    for part in parts:
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def print_text(text: str, *, indent: str = "") -> None:
    """Print a line of prose; on a terminal, wrap it between words. A long path is not broken, so it can be copied."""
    line = printable(text)
    print("\n".join(_filled(line, _terminal_width(), indent)) if sys.stdout.isatty() else indent + line)


def _filled(text: str, width: int, indent: str) -> list[str]:
    """Return text on lines of at most `width` cells, the later ones indented further.

    Words that have no spaces between them, as in Chinese, are broken anywhere; a long path is not.
    """
    lines = [indent + " " * (len(text) - len(text.lstrip(" ")))]
    for word in text.lstrip(" ").split(" "):
        has_spaces = cell_len(word) == len(word)
        for place, piece in enumerate([word] if has_spaces else chop_cells(word, width - len(indent) - 2)):
            space = " " if lines[-1].strip() and not place else ""
            if lines[-1].strip() and cell_len(lines[-1] + space + piece) > width:
                lines.append(indent + "  ")
                space = ""
            lines[-1] += space + piece
    return lines


def _terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def print_warning(message: str) -> None:
    """Print a warning on standard error."""
    print(f"producer: {printable(message)}", file=sys.stderr)


def percent(confidence: float | None) -> str:
    """Return a confidence in percent, empty for None."""
    return "" if confidence is None else f"{100 * confidence:.0f} %"


def yes_or_no(value: bool | None) -> str:
    """Return a truth value in words, empty for None."""
    return "" if value is None else "yes" if value else "no"


def decimals(score: float | None) -> str:
    """Return a score with three decimals, empty for None."""
    return "" if score is None else f"{score:.3f}"


def local_time(seconds: float | None) -> str:
    """Return a time, in seconds since 1970, in the local time zone; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def common_folder(rows: Sequence[FileRow]) -> str:
    """Return the deepest folder that holds all files, with a final slash, so that a table can leave it out."""
    if not rows:
        return ""
    return os.path.commonpath([Path(row.path).parent for row in rows]).rstrip("/") + "/"


class SkipReport:
    """Prints what a submit does not take: warnings, and with `listed` each path, with a tab before the reason.

    On a terminal the list goes through the bar of a waiting submit; elsewhere never, because that prints on standard
    error.
    """

    def __init__(self, *, listed: bool, as_json: bool) -> None:
        self._listed = listed
        self._as_json = as_json
        self._output = None if sys.stdout.isatty() else sys.stdout

    def skipped(self, path: bytes, category: str) -> None:
        """Print a path that is skipped, with its category."""
        if not self._listed:
            return
        text = text_of(path)
        exact = {} if text.encode() == path else {"path_b64": base64.b64encode(path).decode()}
        as_json, as_text = {"path": text, "skipped": category} | exact, f"{printable(text)}\t{category}"
        print(json_text(as_json) if self._as_json else as_text, file=self._output)

    def warn(self, message: str) -> None:
        """Print a warning."""
        print_warning(message)
