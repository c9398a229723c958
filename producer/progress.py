"""Waiting for a job, and showing how it goes: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from captioning.store import jobs
from captioning.store.database import Database
from captioning.terminal import printable
from captioning.values import JobState

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0
DATABASE_RETRY_SECONDS = 60.0  # that we wait for a database that is away
STALL_SECONDS = 10.0  # without an image, after which we look for the reason
WINDOW_SECONDS = 15.0  # over which speed is measured


class Show(Protocol):
    """Where progress is shown."""

    def update(self, text: str, done: int, total: int) -> None:
        """Show where things stand."""

    def tell(self, error: str) -> None:
        """Say why things stand still, on a line of its own."""


@dataclass
class Speed:
    """Images a second over the last moments."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, done: int) -> None:
        """Note how many are done now; the clock starts when that first changes."""
        now = time.monotonic()
        self.seen.append((now, done))
        while len(self.seen) > 2 and now - self.seen[1][0] > WINDOW_SECONDS:
            self.seen.popleft()

    @property
    def stalled_for(self) -> float:
        """Seconds since the number last changed."""
        last = self.seen[-1]
        return last[0] - next((at for at, done in self.seen if done == last[1]), last[0])

    @property
    def per_second(self) -> float:
        """0 until something can be said."""
        if len(self.seen) < 2:
            return 0.0
        still = next((i for i in range(1, len(self.seen)) if self.seen[i][1] != self.seen[0][1]), 1)
        (start, first), (end, last) = self.seen[still - 1], self.seen[-1]  # waiting for the first isn't speed
        return (last - first) / max(end - start, 1e-9)


def describe(progress: jobs.Progress, speed: Speed) -> str:
    """Return the words beside the bar."""
    if not progress.done:
        return "waiting for a worker" if progress.total else "nothing to do"
    rate = speed.per_second
    parts = [f"{rate:.1f} images/s"] if rate else []
    if rate and progress.done < progress.total:
        parts.append(f"{_duration((progress.total - progress.done) / rate)} left")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def shown(quiet: bool = False) -> Iterator[Show]:
    """Give a place to show progress on standard error, cleared when it ends."""
    if quiet or not sys.stderr.isatty():
        yield _Lines(quiet)
        return
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=28), MofNCompleteColumn(), _words())
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)


def _words() -> TextColumn:
    return TextColumn("{task.description}", markup=False)  # a root may be called [/bold]


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("looking for images", total=None)

    def update(self, text: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=text, completed=done, total=total)

    def tell(self, error: str) -> None:
        self._bar.console.print(error, markup=False, highlight=False, soft_wrap=True)


class _Lines:
    def __init__(self, quiet: bool) -> None:
        self._next = time.monotonic() + LINE_SECONDS
        self._quiet = quiet

    def update(self, text: str, done: int, total: int) -> None:
        if not self._quiet and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            print(f"{done}/{total} {text}", file=sys.stderr, flush=True)

    def tell(self, error: str) -> None:
        if not self._quiet:
            print(error, file=sys.stderr, flush=True)


class Alive(Protocol):
    """Something that must stay up while we wait."""

    def ensure_running(self) -> None:
        """Raise CaptioningError when it can't."""

    def diagnose(self, progress: jobs.Progress) -> list[str]:
        """Return why a job may stand still."""


def wait_for(db: Database, job_id: int, show: Show, alive: Alive) -> jobs.Progress:
    """Return when nobody will do more for a job: it is done, cancelled or paused."""
    speed, told = Speed(), set[str]()
    while True:
        progress = db.retry(lambda: jobs.progress(db, job_id))[0]
        speed.add(progress.done)
        if speed.stalled_for > STALL_SECONDS:
            for error in db.retry(lambda p=progress: alive.diagnose(p)):  # type: ignore[misc]
                wording = error.lstrip("0123456789")  # not again for each image fewer
                if wording not in told:
                    show.tell(printable(error))
                told.add(wording)
        show.update(printable(describe(progress, speed)), progress.done, progress.total)
        if progress.is_finished or progress.state == JobState.PAUSED:
            return progress
        if not progress.registered and progress.done == progress.total:
            return progress  # its submit was cut short: nobody knows of more to do
        alive.ensure_running()
        time.sleep(POLL_SECONDS)
