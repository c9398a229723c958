"""Waiting for a job: the rate, the text beside the bar, and when the wait ends."""

import contextlib
import functools
import itertools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from captioning.errors import CaptioningError, Interrupted
from captioning.settings import Settings
from captioning.store import jobs, workers
from captioning.store.database import Database
from captioning.store.workers import WorkerInfo
from captioning.values import JobState
from producer import progress
from producer.dispatch import Dispatcher, ExternalBackend
from producer.progress import Rate, Reminders, describe, explained_interrupt, progress_display
from tests.store.helpers import StoreDriver


@dataclass
class Display:
    updates: list[tuple[str, int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def update(self, text: str, done: int, total: int) -> None:
        self.updates.append((text, done, total))

    def print_line(self, message: str) -> None:
        self.warnings.append(message)


@dataclass
class Backend:
    """A backend that processes one chunk each time it is asked to keep running."""

    driver: StoreDriver
    reasons: list[list[str]] = field(default_factory=list)

    def ensure_running(self) -> None:
        if not self.reasons:
            self.driver.process_chunk(self.driver.claim())

    def stage(self, _: int) -> str:
        return "loading the model"

    def diagnose(self, _: jobs.Progress) -> list[str]:
        return self.reasons.pop() if self.reasons else []

    def check_disks(self) -> None:
        pass


wait_for_job = functools.partial(progress.wait_for_job, poll_seconds=0.001)


@pytest.fixture
def driver(store: Database) -> StoreDriver:
    return StoreDriver(store)


def test_the_rate_does_not_count_the_wait_for_the_first_image() -> None:
    rate = Rate()
    rate.samples.extend([(0.0, 0), (9.0, 0), (10.0, 0), (11.0, 5), (12.0, 10)])
    assert rate.per_second == pytest.approx(5.0)
    assert rate.stalled_for == 0.0
    rate.samples.append((20.0, 10))
    assert rate.stalled_for == pytest.approx(8.0)


def test_the_rate_forgets_what_is_older_than_its_window() -> None:
    rate = Rate()
    for second in range(100):
        rate.add(second * 2, float(second))
    assert rate.samples[0][0] >= 99 - progress.RATE_WINDOW_SECONDS - 1
    assert rate.per_second == pytest.approx(2.0)


def test_the_text_beside_the_bar_says_what_is_known(driver: StoreDriver) -> None:
    job = driver.submit(8, chunk_size=4)
    rate = Rate()
    assert describe(driver.progress(job), rate, "loading the model") == "loading the model"
    driver.process_chunk(driver.claim())
    rate.samples.extend([(0.0, 0), (2.0, 4)])
    assert describe(driver.progress(job), rate, "") == "2.0 images/s, 2 s left"
    assert describe(driver.progress(job), Rate(), "starting a worker") == "starting a worker"


def test_the_wait_ends_when_the_job_is_done(driver: StoreDriver) -> None:
    display = Display()
    job = driver.submit(12, chunk_size=4)
    assert wait_for_job(driver.db, job, display, Backend(driver)).state == JobState.DONE
    assert [done for _, done, _ in display.updates] == [0, 4, 8, 12]


def test_the_wait_ends_when_the_job_is_paused(driver: StoreDriver) -> None:
    job = driver.submit(4)
    jobs.pause(driver.db, job)
    assert wait_for_job(driver.db, job, Display(), Backend(driver)).state == JobState.PAUSED


def test_the_wait_ends_when_the_submit_was_interrupted_and_its_images_are_done(driver: StoreDriver) -> None:
    job = driver.open_job()
    assert not wait_for_job(driver.db, job, Display(), Backend(driver)).registered


def test_the_wait_fails_when_the_backend_cannot_run(driver: StoreDriver) -> None:
    class BrokenBackend(Backend):
        def ensure_running(self) -> None:
            raise CaptioningError("the embedded broker does not start")

    with pytest.raises(CaptioningError, match="does not start"):
        wait_for_job(driver.db, driver.submit(4), Display(), BrokenBackend(driver))


def test_a_stall_is_explained_once_whatever_the_number_of_images(driver: StoreDriver) -> None:
    backend = Backend(driver, [["40 images waiting: no disk"], ["41 images waiting: no disk", "no \x1b worker"]])
    display = Display()
    wait_for_job(driver.db, driver.submit(4), display, backend, stall_seconds=-1.0)
    assert display.warnings == ["41 images waiting: no disk", "no \\x1b worker"]


def test_a_reason_that_lasts_is_told_again_ever_more_rarely() -> None:
    display, seconds = Display(), [0.0]
    reasons = Reminders(display, clock=lambda: seconds[0])
    told_at = []
    for second in range(600):
        seconds[0] = float(second)
        reasons.show([f"{600 - second} images waiting: the disk is full"])
        if len(display.warnings) > len(told_at):
            told_at.append(second)
    assert told_at == [0, 60, 180, 420]


def test_the_wait_ends_when_a_disk_that_the_job_needs_stays_full(driver: StoreDriver) -> None:
    class FullDisk(Backend):
        def ensure_running(self) -> None:
            pass

        def check_disks(self) -> None:
            raise CaptioningError("the disk is full")

    with pytest.raises(CaptioningError, match="the disk is full"):
        wait_for_job(driver.db, driver.submit(4), Display(), FullDisk(driver), stall_seconds=-1.0)


def test_a_submit_ends_when_nothing_can_be_written_where_its_work_writes(
    driver: StoreDriver, settings: Settings
) -> None:
    Dispatcher(driver.db, settings).check_disks()
    no_disk = settings.model_copy(update={"data_dir": Path("/proc/self"), "database_retry_seconds": 0.0})
    with pytest.raises(CaptioningError, match=r"write to /proc/self .*; the same command continues"):
        Dispatcher(driver.db, no_disk).check_disks()
    ExternalBackend(driver.db, no_disk).check_disks()  # other processes' work


def test_the_stage_is_shown_until_the_first_image_is_done(driver: StoreDriver) -> None:
    display = Display()
    wait_for_job(driver.db, driver.submit(8, chunk_size=4), display, Backend(driver))
    assert display.updates[0] == ("loading the model", 0, 8)
    assert "loading the model" not in display.updates[-1][0]


def test_the_stage_of_a_job_is_that_of_its_worker(driver: StoreDriver, settings: Settings) -> None:
    own = Dispatcher(driver.db, settings)
    others = ExternalBackend(driver.db, settings)
    job = driver.submit(4)
    assert (own.stage(job), others.stage(job)) == ("starting a worker", "waiting for a worker")
    workers.heartbeat(driver.db, WorkerInfo("embedded", "here", (), "torch"), [])
    assert (own.stage(job), others.stage(job)) == ("loading the model", "waiting for a worker")
    driver.claim()
    assert (own.stage(job), others.stage(job)) == ("captioning", "captioning")


def test_without_a_terminal_there_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display() as display:
        display.update("images found", 1, 1)
    with progress_display(line_seconds=0.0) as display:
        display.update("images found", 2, 2)
        display.print_line("no worker is running")
    assert capsys.readouterr().err == "2/2 images found\nno worker is running\n"


def test_without_a_terminal_the_lines_become_rarer_and_rarest_while_nothing_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_display(clock=functools.partial(next, itertools.count())) as display:
        for _ in range(3600):
            display.update("waiting for a worker", 0, 9)
        unchanged = capsys.readouterr().err.splitlines()
        for number in range(3600):
            display.update("8.0 images/s", number, 9000)
    changed = capsys.readouterr().err.splitlines()
    assert len(unchanged) < 10
    assert len(changed) == 60  # one a minute


def test_a_ctrl_c_is_explained() -> None:
    with (
        pytest.raises(Interrupted, match="interrupted; job 3 is not affected"),
        explained_interrupt("job 3 is not affected"),
    ):
        raise KeyboardInterrupt


def test_progress_that_nobody_reads_does_not_end_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    closed = open(writer, "w", buffering=1)  # noqa: SIM115, PTH123
    monkeypatch.setattr(sys, "stderr", closed)
    with progress_display(line_seconds=0.0) as display:
        display.update("captioning", 1, 2)
    monkeypatch.undo()
    with contextlib.suppress(BrokenPipeError):
        closed.close()
