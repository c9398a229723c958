"""Places in the running programs where a fault can be made to strike, once in the life of a test.

`FAULTS="claimed:kill recorded@3:stop"` in the environment names places and what happens there: `kill` takes the whole
worker (its process group) with SIGKILL, `die` only the process that is there, `stop` stops the whole worker, `hang`
waits for ever, `raise` raises. `@n` means the n-th time, counted over all processes that share FAULTS_PLACE.
"""

import os
import signal
import time
from pathlib import Path

PLACE = "FAULTS_PLACE"
FAULTS = "FAULTS"


def reach(name: str) -> None:
    """Say that a place is reached; what was arranged for it happens."""
    for arranged in os.environ.get(FAULTS, "").split():
        where, _, what = arranged.partition(":")
        where, _, count = where.partition("@")
        if where == name and _hits(name) == int(count or 1):
            _mark(f"fired-{name}")
            _strike(what)


def _hits(name: str) -> int:
    """Count this hit; return its number."""
    with (_place() / f"hits-{name}").open("ab") as file:
        file.write(b".")
        return file.tell()


def _mark(name: str) -> None:
    (_place() / name).touch()


def _place() -> Path:
    return Path(os.environ[PLACE])


def _strike(what: str) -> None:
    if what == "kill":
        os.killpg(0, signal.SIGKILL)
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stop":
        os.killpg(0, signal.SIGSTOP)
    elif what == "hang":
        time.sleep(3600)
    elif what == "raise":
        raise RuntimeError("a failpoint")
