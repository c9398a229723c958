"""Draw a real run as an SVG: caption the sample photographs in a pseudo-terminal, then search and export.

python -m scripts.render_run [FILE]    # docs/images/run.svg by default

The commands run offline in a temporary home folder, which the drawing shows as `~`.
"""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from scripts.sample_images import copy_samples

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "run.svg"
COLUMNS, ROWS = 110, 40
COMMANDS = (("submit", "./images"), ("search", "man"), ("export", "--format", "jsonl", "-o", "captions.jsonl"))
_CONTROL = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])")  # a CSI sequence, a carriage return or a line feed
_CURSOR_UP = re.compile(r"\x1b\[([0-9]*)A")
_FONT_FACES = re.compile(r"\s*@font-face \{\{.*?\}\}", re.DOTALL)


def main(output: Path) -> None:
    """Run the commands and write the drawing."""
    with tempfile.TemporaryDirectory(prefix="cm-", dir="/tmp") as home:  # short, so that a table shows it whole
        copy_samples(Path(home) / "images")
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        for command in COMMANDS:
            screen = screen_of(run_in_terminal(["producer", *command], Path(home)))
            console.print(Text(f"$ producer {' '.join(command)}", style="bold"))
            console.print(Text.from_ansi(with_short_home(screen, home)), "")
    template = _FONT_FACES.sub("", CONSOLE_SVG_FORMAT)  # the drawing loads nothing from elsewhere
    output.parent.mkdir(parents=True, exist_ok=True)
    svg = console.export_svg(title="captionmill", theme=MONOKAI, code_format=template, unique_id="run")
    output.write_text("".join(f"{line.rstrip()}\n" for line in svg.splitlines()), encoding="utf-8")


def run_in_terminal(command: Sequence[str], home: Path) -> str:
    """Run a program of this environment in a pseudo-terminal; return everything that it wrote.

    Raises CalledProcessError when it fails.
    """
    program = Path(sys.executable).with_name(command[0])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CAPTIONING_", "XDG_", "COLUMNS", "LINES"))}
    environment = kept | {"HOME": str(home), "TERM": "xterm-256color"}
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen([program, *command[1:]], cwd=home, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    written = _read_all(master)
    os.close(master)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, list(command), output=written)
    return written


def _read_all(master: int) -> str:
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO, on Linux: every process has closed the terminal
            part = b""
        if not part:
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


def screen_of(written: str) -> str:
    """Return what a terminal shows at the end: progress bars that were drawn over and erased are gone.

    Follows carriage returns, line feeds, cursor up and erase line, which is all that rich's progress display needs.
    Colours are kept.
    """
    lines, row, at_start = [""], 0, True
    for piece in _CONTROL.split(written):
        if piece == "\r":
            at_start = True
        elif piece == "\n":
            row, at_start = row + 1, True
            lines += [""] * (row + 1 - len(lines))
        elif up := _CURSOR_UP.fullmatch(piece):
            row = max(0, row - int(up[1] or 1))
        elif piece.startswith("\x1b[") and piece.endswith("K"):
            lines[row] = ""
        elif piece and (not piece.startswith("\x1b[") or piece.endswith("m")):
            lines[row] = piece if at_start else lines[row] + piece
            at_start = False
    return "\n".join(lines).rstrip()


def with_short_home(screen: str, home: str) -> str:
    """Replace the home folder by `~`. In a table, where spaces follow a path, the columns stay aligned."""
    padding = " " * (len(home) - 1)
    screen = re.sub(rf"{re.escape(home)}(\S*)(?=  )", rf"~\1{padding}", screen)
    return screen.replace(home, "~")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
