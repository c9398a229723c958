"""Ends decode processes that take too long for an image, or to start."""

import threading
from typing import Protocol


class _Killable(Protocol):
    def kill(self) -> None: ...


class Watchdog(threading.Thread):
    """Kills processes that take too long.

    It counts its own ticks instead of reading a clock: while this process is stopped, no time is counted.
    """

    TICK_SECONDS = 0.25

    def __init__(self) -> None:
        super().__init__(name="decode-watchdog", daemon=True)
        self._seconds_left: dict[_Killable, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def begin(self, process: _Killable, seconds: float) -> None:
        """Kill the process unless `end` is called within this time."""
        with self._lock:
            self._seconds_left[process] = seconds

    def end(self, process: _Killable) -> bool:
        """Stop watching a process, which may not be watched; return whether it was killed."""
        with self._lock:
            return self._seconds_left.pop(process, 1.0) <= 0

    def stop(self) -> None:
        """Kill nothing from now on."""
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(self.TICK_SECONDS):
            with self._lock:
                for process in self._seconds_left:
                    self._seconds_left[process] -= self.TICK_SECONDS
                    if self._seconds_left[process] <= 0:
                        process.kill()
