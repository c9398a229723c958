"""Embedded mode: without any settings, one command captions a folder, and no failure of a process loses anything."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

import migrations
from captioning.settings import read_settings
from captioning.store.database import Database
from producer.embedded.client import EmbeddedClient
from tests.journeys.cli_runner import CliRunner
from tests.journeys.helpers import make_images
from tests.model.test_pixels import png
from tests.support.ctrl_c import accept_ctrl_c
from tests.support.polling import wait_until


@pytest.fixture
def slow_runner(runner: CliRunner) -> CliRunner:
    """A runner with jobs that take long enough to be interrupted: every commit is of two images."""
    runner.environment["CAPTIONING_BATCH_SIZE"] = "2"
    return runner


def make_fast(runner: CliRunner) -> None:
    del runner.environment["CAPTIONING_BATCH_SIZE"]


def count_captions(runner: CliRunner) -> int:
    try:
        with closing(sqlite3.connect(runner.data / "captions.sqlite")) as connection:
            return int(connection.execute("SELECT count(*) FROM captions").fetchone()[0])
    except sqlite3.OperationalError:  # there is no database yet
        return 0


@pytest.fixture
def kept_worker(runner: CliRunner) -> Iterator[EmbeddedClient]:
    """The embedded worker of a runner, which stays from one submit to the next: starting one takes ten seconds."""
    settings = read_settings(data_dir=runner.data)
    with closing(Database.open(settings)) as db:
        migrations.upgrade(db)
    client = EmbeddedClient(settings)
    client.attach()
    yield client
    client.close()
    assert client._supervisor is not None
    client._supervisor.wait(15)


def test_a_folder_is_captioned_once_and_then_known(
    runner: CliRunner, kept_worker: EmbeddedClient, photographs: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(photographs, images)
    first = runner.submit(str(images))
    assert (first["scanned"], first["captioned"], first["failed"], first["model_runs"]) == (10, 10, 0, 10)

    again = runner.submit(str(images))
    assert (again["known"], again["captioned"], again["new"]) == (10, 0, 0)

    (images / "flower.jpg").rename(images / "renamed.jpg")
    (images / "deeper").mkdir()
    Image.open(images / "coffee.png").rotate(90).save(images / "deeper" / "turned.png")
    changed = runner.submit(str(images))
    assert (changed["known"], changed["reused"], changed["captioned"], changed["model_runs"]) == (9, 1, 1, 1)

    part = runner.submit(str(images / "deeper"))
    assert (part["scanned"], part["known"]) == (1, 1)

    rows = runner.producer("export", "--format", "jsonl").lines
    assert sorted(Path(row["path"]).relative_to(images) for row in rows) == sorted(
        path.relative_to(images) for path in images.rglob("*.*")
    )
    assert all(row["caption"] and row["model"] == "lstm" and 0 < row["confidence"] <= 1 for row in rows)

    other = runner.submit(str(images), "--model", "gru")
    assert (other["captioned"], other["model_runs"]) == (11, 11)
    shown = runner.producer("show", str(images / "coffee.png"), "--json").json
    assert {caption["model"] for caption in shown["captions"]} == {"lstm", "gru"}
    assert shown["model"] == "lstm"
    assert {row["model"] for row in runner.producer("export", "--model", "gru").lines} == {"gru"}

    word = rows[0]["caption"].split()[-1]
    found = runner.producer("search", word, "--json").json
    assert rows[0]["path"] in [row["path"] for row in found]
    assert kept_worker.log.read_text().count("model_loaded") == 2  # one worker loaded each model once


@pytest.mark.slow
def test_bad_files_in_a_folder_fail_alone(runner: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", photographs, 20)
    (images / "empty.jpg").touch()
    (images / "text.jpg").write_text("not an image")
    good = (images / "0000.jpg").read_bytes()
    (images / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (images / "bomb.png").write_bytes(png(30000, 30000, 8, 2, b"\0" * 1000))
    (images / "scan.tif").write_bytes(b"II*\x00" + bytes(64))
    os.mkfifo(images / "pipe.jpg")
    (images / "passwd.jpg").symlink_to("/etc/passwd")
    (images / "a.jpg").mkdir()
    (images / "README.txt").write_text("read me")
    (images / ".hidden.jpg").write_bytes(good)
    not_utf_8 = os.fsencode(images) + b"/caf\xe9.jpg"
    shutil.copy(images / "0001.jpg", not_utf_8)
    shutil.copy(images / "0000.jpg", images / "copy.jpg")
    counts = runner.submit(str(images))
    assert (counts["captioned"], counts["reused"], counts["failed"], counts["model_runs"]) == (20, 2, 5, 20)
    assert counts["skipped"] == sum(counts["skipped_kinds"].values()) == 5
    failures = {Path(f["path"]).name: f["reason"] for f in runner.producer("failures", "--json").json}
    assert failures == {
        "empty.jpg": "unreadable",
        "text.jpg": "unreadable",
        "truncated.jpg": "truncated",
        "bomb.png": "too_large",
        "scan.tif": "unsupported",
    }
    rows = {Path(row["path"]).name: row for row in runner.producer("export").lines}
    assert len(rows) == 27
    assert rows["copy.jpg"]["caption"] == rows["0000.jpg"]["caption"]
    assert rows["caf%E9.jpg"]["path_b64"]
    assert rows["bomb.png"]["status"] == "failed"
    assert rows["bomb.png"]["error"].startswith("too_large: 30000x30000 pixels")
    status = runner.producer("status", "--json").json
    assert status["reasons"] == {"too_large": 1, "truncated": 1, "unreadable": 2, "unsupported": 1}

    (images / "empty.jpg").write_bytes((images / "0002.jpg").read_bytes())
    retried = runner.producer("retry", str(counts["job"]), "--failed")
    assert retried.code == 3
    assert runner.producer("status", str(counts["job"]), "--json").json["failed"] == 4


def test_the_same_submit_continues_the_job_of_one_that_was_killed(
    slow_runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", photographs, 80)
    submit = slow_runner.start("producer", "submit", str(images), stderr=subprocess.DEVNULL)
    wait_until(lambda: count_captions(slow_runner) > 0, 120, "the first captions")
    submit.kill()
    submit.wait()
    wait_until(slow_runner.has_no_processes, 10, "all processes to end")
    assert 0 < count_captions(slow_runner) < 80
    make_fast(slow_runner)
    counts = slow_runner.submit(str(images))
    assert (counts["job"], counts["new"], counts["captioned"], counts["failed"]) == (1, 80, 80, 0)
    assert counts["model_runs"] == 80


def test_ctrl_c_is_reported_and_loses_nothing(slow_runner: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", photographs, 60)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    submit = slow_runner.start("producer", "submit", str(images), preexec_fn=accept_ctrl_c, **streams)
    wait_until(lambda: count_captions(slow_runner) > 0, 120, "the first captions")
    submit.send_signal(signal.SIGINT)
    _, err = submit.communicate(timeout=20)
    assert submit.returncode == 130
    assert err.splitlines()[-1].startswith("producer: interrupted")
    assert "Traceback" not in err
    wait_until(slow_runner.has_no_processes, 10, "all processes to end")
    status = slow_runner.producer("status", "--json").json
    assert (status["new"], status["captioned"]) == (60, count_captions(slow_runner))


def kill_one(runner: CliRunner, command: str) -> bool:
    """Kill one process of the runner with a text in its command line; return whether there is one."""
    for process in runner.processes():
        with suppress(psutil.Error):
            if command in " ".join(process.cmdline()):
                process.kill()
                return True
    return False


@pytest.mark.slow
def test_a_job_survives_the_death_of_each_of_its_processes(
    slow_runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", photographs, 300)
    submit = slow_runner.start(
        "producer", "submit", str(images), "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: count_captions(slow_runner) > 0, 120, "the first captions")
    for command in ("captioning.decoding.child", "from billiard", "-m worker --until-eof", "valkey"):
        wait_until(lambda c=command: kill_one(slow_runner, c), 30, f"a process with {command!r}")  # type: ignore[misc]
        time.sleep(1.0)
    out, _ = submit.communicate(timeout=200)
    assert submit.returncode == 0
    assert '"captioned": 300' in out


@pytest.mark.slow
def test_two_embedded_workers_share_a_job_and_one_goes_on_when_the_other_dies(
    slow_runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    slow_runner.environment |= {"CAPTIONING_EMBEDDED_WORKERS": "2", "CAPTIONING_CHUNK_SIZE": "8"}
    images = make_images(tmp_path / "images", photographs, 200)
    submit = slow_runner.start(
        "producer", "submit", str(images), "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(claimants(slow_runner)) == 2, 120, "chunks of both workers")
    dead = next(name for name in claimants(slow_runner) if name.endswith("-2"))
    for process in slow_runner.processes():
        with suppress(psutil.Error):
            if process.environ().get("CAPTIONING_WORKER_NAME") == dead:
                process.kill()
    out, _ = submit.communicate(timeout=200)
    assert submit.returncode == 0
    assert '"captioned": 200' in out
    wait_until(slow_runner.has_no_processes, 10, "all processes to end")


def claimants(runner: CliRunner) -> set[str]:
    """Return the names of the workers that hold a chunk."""
    try:
        with closing(sqlite3.connect(runner.data / "captions.sqlite")) as connection:
            return {name for (name,) in connection.execute("SELECT worker FROM chunks WHERE worker IS NOT NULL")}
    except sqlite3.OperationalError:  # there is no database yet
        return set()


@pytest.mark.slow
def test_two_submits_at_once_share_worker_and_captions(runner: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", photographs, 60)
    submits = [
        runner.start("producer", "submit", str(images), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for submit in submits:
        out, err = submit.communicate(timeout=200)
        assert submit.returncode == 0, err
        assert '"failed": 0' in out
    assert count_captions(runner) == 60


def test_relative_paths_start_at_the_working_folder_and_packages_in_it_are_not_imported(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    """Our packages have everyday names, such as `worker`: a folder with such a name is likely."""
    runner.environment |= {"CAPTIONING_DATA_DIR": "data", "CAPTIONING_DATABASE_URL": "sqlite:///own.db"}
    runner.environment["CAPTIONING_ROOTS"] = "other=/mnt"  # for other workers; the embedded one serves all roots
    for name in ("worker", "producer", "captioning", "training", "migrations", "celery"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported the wrong one')")
    shutil.copytree(photographs, tmp_path / "images")
    result = runner.producer("submit", "images", cwd=tmp_path)
    assert result.code == 0, result
    assert "10 captioned" in result.out
    assert (tmp_path / "own.db").exists()
    assert (runner.data / "worker.log").exists()
