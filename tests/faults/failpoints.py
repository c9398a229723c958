"""Failpoints: named points in the running programs at which a test makes a fault happen, once.

`FAULTS_FAILPOINTS="after_claim:kill after_commit@3:stop"` in the environment names points and actions. `kill` ends the
whole worker (its process group) with SIGKILL, `die` ends only the current process, `stop` stops the whole worker with
SIGSTOP, `hang` waits for an hour, `raise` raises RuntimeError. `@n` means the n-th time that the point is reached,
counted over all processes that share the folder FAULTS_DIR.
"""

import os
import signal
import time
from pathlib import Path

DIR = "FAULTS_DIR"
FAILPOINTS = "FAULTS_FAILPOINTS"


def reach(point: str) -> None:
    """Act if the environment names this point for this hit."""
    for failpoint in os.environ.get(FAILPOINTS, "").split():
        name, _, action = failpoint.partition(":")
        name, _, hit = name.partition("@")
        if name == point and _count_hit(point) == int(hit or 1):
            fired_file(point).touch()
            _act(action)


def fired_file(point: str, folder: Path | None = None) -> Path:
    """Return the file that exists once the fault at this point has happened."""
    return (folder or shared_dir()) / f"fired-{point}"


def shared_dir() -> Path:
    return Path(os.environ[DIR])


def _count_hit(point: str) -> int:
    """Count this hit; return its number."""
    with (shared_dir() / f"hits-{point}").open("ab") as file:
        file.write(b".")
        return file.tell()


def _act(action: str) -> None:
    if action == "kill":
        os.killpg(0, signal.SIGKILL)
    elif action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.killpg(0, signal.SIGSTOP)
    elif action == "hang":
        time.sleep(3600)
    elif action == "raise":
        raise RuntimeError("a failpoint")
    else:
        raise ValueError(f"{FAILPOINTS}: no action {action!r}")
