"""Embedded mode: without a configured broker, `producer` runs a private broker and worker for one data folder."""

from pathlib import Path

SOCKET, LOCK, LOG = "embedded.sock", "embedded.lock", "worker.log"  # files in the data folder
NEW_FOLDER = "new"  # argument of a supervisor for a data folder that has no database yet
FAILED = 1  # exit code of a supervisor that could not start


def last_error(log: Path, program: str) -> str:
    """Return the last line that a program reported in the log, without its name; empty when there is none."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line.startswith(f"{program}: ")), "").removeprefix(f"{program}: ")
