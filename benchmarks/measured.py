"""Run a command with all the processes that it starts, and measure them together: seconds, CPU time, peak memory.

The calling process becomes the parent of processes that lose theirs (Linux only), so that servers which put themselves
into the background are measured, waited for, and ended too.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SET_CHILD_SUBREAPER = 36  # of prctl
_SAMPLE_SECONDS = 0.5  # between two looks at the memory; one takes some milliseconds of CPU time
_GRACE_SECONDS = 20.0  # that processes may take to end after the command


@dataclass(frozen=True)
class Measured:
    """What a command took, together with its children."""

    began_at: float  # seconds since 1970
    seconds: float
    cpu_seconds: float
    peak_bytes: int  # proportional set sizes (PSS) at one moment, so that shared memory counts once
    error: str  # why it failed; empty when it did not


def run_measured(command: Sequence[str], environment: Mapping[str, str], log: Path, timeout_seconds: float) -> Measured:
    """Run a command to its end and return what it took. What it prints goes into the log."""
    _adopt_orphans()
    before, began_at, began = _cpu_of_children(), time.time(), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
    peak = _PeakMemory()
    try:
        code, error = process.wait(timeout_seconds), ""
    except subprocess.TimeoutExpired:
        code, error = -1, f"not finished after {timeout_seconds:.0f} s"
    seconds = time.monotonic() - began
    peak.stop()
    _end_children()
    if code and not error:
        error = f"exit code {code}: {_last_line(log)}"
    return Measured(began_at, seconds, _cpu_of_children() - before, peak.bytes, error)


class _PeakMemory:
    """Looks at the memory of all children from time to time, on a thread."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            self.bytes = max(self.bytes, sum(map(_pss, psutil.Process().children(recursive=True))))


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):  # it has ended
        return 0


def _adopt_orphans() -> None:
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _cpu_of_children() -> float:
    """Return the CPU seconds of all children that have ended and were waited for, with theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _end_children() -> None:
    """Wait until all children have ended; end those that do not."""
    deadline, asked = time.monotonic() + _GRACE_SECONDS, False
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = psutil.Process().children(recursive=True)
        if not children:
            return
        if time.monotonic() > deadline:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL if asked else signal.SIGTERM)
            deadline, asked = time.monotonic() + 5, True
        time.sleep(0.1)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"
