"""`producer watch` in embedded mode: one command, nothing set up."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.journeys.cli_runner import CliRunner
from tests.support.polling import wait_until


def captioned(runner: CliRunner) -> int:
    try:
        with closing(sqlite3.connect(runner.data / "captions.sqlite")) as connection:
            query = (
                "SELECT count(*) FROM files f JOIN captions c ON c.image_id = f.image_id WHERE missing_since IS NULL"
            )
            return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # there is no database yet
        return 0


def supervisor(runner: CliRunner) -> psutil.Process | None:
    return next((one for one in runner.processes() if "producer.embedded.supervisor" in one.cmdline()), None)


@pytest.mark.slow
def test_an_inbox_is_captioned_until_the_watch_is_stopped(runner: CliRunner, photographs: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    first, second, third, *_ = sorted(photographs.glob("*.*"))
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        watch = runner.start("producer", "watch", str(inbox), "--settle", "0.5", "--json", stdout=out, stderr=err)
    try:
        wait_until(lambda: "watching" in (tmp_path / "err").read_text(), 30, "the watch to begin")
        shutil.copy(first, inbox)
        wait_until(lambda: captioned(runner) == 1, 90, "the first caption")
        shutil.copy(second, inbox)
        wait_until(lambda: captioned(runner) == 2, 30, "the second caption")

        running = supervisor(runner)
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        shutil.copy(third, inbox)
        wait_until(lambda: captioned(runner) == 3, 90, "a caption by a new worker")
        (inbox / first.name).unlink()
        wait_until(lambda: captioned(runner) == 2, 30, "the deletion")
    finally:
        watch.send_signal(signal.SIGTERM)
        code = watch.wait(30)
    assert (code, (tmp_path / "err").read_text().count("\n")) == (0, 1)
    assert (tmp_path / "out").read_text().count('"queued": 1') == 3


def test_only_folders_can_be_watched(runner: CliRunner, photographs: Path) -> None:
    result = runner.producer("watch", str(next(photographs.glob("*.*"))))
    assert result.code == 2
    assert "is not a folder: `producer watch` takes folders." in result.err
    result = runner.producer("watch", "gone")
    assert result.code == 2
    assert "gone: no such file or folder" in result.err
