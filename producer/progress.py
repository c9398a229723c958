"""Wait for a job and show its progress: a bar on a terminal, otherwise a line now and then."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from captioning.errors import Interrupted
from captioning.store import jobs
from captioning.store.database import Database
from captioning.terminal import printable
from captioning.values import JobState

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0  # before the first line where there is no bar; the time doubles with each line...
MAX_LINE_SECONDS = 60.0  # ... up to this, unless the line stays the same
STALL_SECONDS = 10.0  # without a finished image, before the reason is looked for
REMINDER_SECONDS = 60.0  # before a reason that lasts is shown again; the time doubles with each reminder
RATE_WINDOW_SECONDS = 15.0  # over which the rate is measured


class ProgressDisplay(Protocol):
    """Shows the progress of a job to a person."""

    def update(self, text: str, done: int, total: int) -> None:
        """Show the progress now."""

    def print_line(self, message: str) -> None:
        """Show a message on its own line."""


class Backend(Protocol):
    """Does the work of a job while the producer waits for it."""

    def ensure_running(self) -> None:
        """Raise CaptioningError when the work cannot continue."""

    def stage(self, job: int) -> str:
        """Return what happens to the job while no image of it gets done."""

    def diagnose(self, progress: jobs.Progress) -> list[str]:
        """Return the reasons why the job may be stalled."""

    def check_disks(self) -> None:
        """Raise CaptioningError when a stalled job cannot go on because a disk has been full for a while."""


@dataclass
class Rate:
    """Images per second over a recent window."""

    samples: deque[tuple[float, int]] = field(default_factory=deque)  # time in seconds, images done by then

    def add(self, done: int, now: float) -> None:
        """Record the number of images that are done at a time, in seconds of a monotonic clock."""
        self.samples.append((now, done))
        while len(self.samples) > 2 and now - self.samples[1][0] > RATE_WINDOW_SECONDS:
            self.samples.popleft()

    @property
    def stalled_for(self) -> float:
        """Seconds since the number last changed."""
        latest, done = self.samples[-1]
        return latest - next((at for at, number in self.samples if number == done), latest)

    @property
    def per_second(self) -> float:
        """Images per second, 0 while it is unknown. The wait for the first image does not count."""
        if len(self.samples) < 2:
            return 0.0
        changed = next((i for i in range(1, len(self.samples)) if self.samples[i][1] != self.samples[0][1]), 1)
        (start, first), (end, last) = self.samples[changed - 1], self.samples[-1]
        return (last - first) / max(end - start, 1e-9)


def describe(progress: jobs.Progress, rate: Rate, stage: str) -> str:
    """Return the text beside the bar; `stage` is what happens while no image gets done."""
    if not progress.total:
        return "nothing to do"
    per_second = rate.per_second
    parts = [f"{per_second:.1f} images/s"] if per_second else []
    if progress.done < progress.total:
        parts.append(f"{_duration((progress.total - progress.done) / per_second)} left" if per_second else stage)
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def explained_interrupt(what_becomes_of_the_work: str) -> Iterator[None]:
    """Turn a Ctrl-C into Interrupted with a text for the person."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {what_becomes_of_the_work}") from None


@contextmanager
def progress_display(
    line_seconds: float = LINE_SECONDS, clock: Callable[[], float] = time.monotonic
) -> Iterator[ProgressDisplay]:
    """Show progress on standard error while the context lasts: a bar, which is removed at the end, or lines."""
    if not sys.stderr.isatty():
        yield _Lines(line_seconds, clock)
        return
    console = Console(stderr=True)
    columns = [BarColumn(bar_width=28)] if console.width >= 80 else []  # a narrow terminal has no room for the bar
    with Progress(*columns, MofNCompleteColumn(), _text_column(), console=console, transient=True) as bar:
        yield _Bar(bar)


def _text_column() -> TextColumn:
    wrapping = Column()  # a long description wraps and leaves the numbers their room
    return TextColumn("{task.description}", markup=False, table_column=wrapping)  # a root may be called [/bold]


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, visible=False)

    def update(self, text: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=text, completed=done, total=total, visible=True)

    def print_line(self, message: str) -> None:
        self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)


class _Lines:
    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds  # between the last line and the next
        self._clock = clock
        self._line, self._printed_at = "", clock()

    def update(self, text: str, done: int, total: int) -> None:
        line = f"{done}/{total} {text}"
        seconds = self._seconds if line == self._line else min(self._seconds, MAX_LINE_SECONDS)
        if self._clock() - self._printed_at >= seconds:
            self._seconds *= 2
            self._line, self._printed_at = line, self._clock()
            self.print_line(line)

    def print_line(self, message: str) -> None:
        with suppress(BrokenPipeError):  # nobody reads the progress any more, but the work goes on
            print(message, file=sys.stderr, flush=True)


class Reminders:
    """Shows messages, and again ever more rarely while they last. The number at the start makes no message new."""

    def __init__(self, display: ProgressDisplay, clock: Callable[[], float] = time.monotonic) -> None:
        self._display = display
        self._clock = clock
        self._due = dict[str, tuple[float, float]]()  # by wording: when to show it again, and the pause after that

    def show(self, messages: list[str]) -> None:
        """Show those of the messages that are new or due."""
        now = self._clock()
        for message in messages:
            wording = message.lstrip("0123456789")
            due, pause = self._due.get(wording, (now, REMINDER_SECONDS))
            if now >= due:
                self._display.print_line(printable(message))
                self._due[wording] = (now + pause, pause * 2)


def wait_for_job(
    db: Database,
    job_id: int,
    display: ProgressDisplay,
    backend: Backend,
    *,
    poll_seconds: float = POLL_SECONDS,
    stall_seconds: float = STALL_SECONDS,
) -> jobs.Progress:
    """Wait until a job is done, cancelled or paused, or until it waits only for a submit to register more files.

    Shows progress, and the reasons when the job stalls. Raises CaptioningError when the backend cannot run.
    """
    rate, reasons = Rate(), Reminders(display)
    while True:
        progress = db.retry(lambda: jobs.progress(db, job_id))[0]
        rate.add(progress.done, time.monotonic())
        if rate.stalled_for > stall_seconds:
            reasons.show(db.retry(lambda p=progress: backend.diagnose(p)))  # type: ignore[misc]
            backend.check_disks()
        stage = "" if rate.per_second else db.retry(lambda: backend.stage(job_id))
        display.update(printable(describe(progress, rate, stage)), progress.done, progress.total)
        if progress.is_finished or progress.state == JobState.PAUSED:
            return progress
        if not progress.registered and progress.done == progress.total:
            return progress  # its submit was interrupted, or is still walking: there is nothing to wait for
        backend.ensure_running()
        time.sleep(poll_seconds)
