"""Nothing configured: one command captions a folder, and whatever happens to it, nothing is lost."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.journeys.cli_runner import CliRunner
from tests.model.test_pixels import png
from tests.support.servers import wait_until


@pytest.fixture
def person(tmp_path: Path) -> Iterator[CliRunner]:
    someone = CliRunner(tmp_path / "data", experienced=True)
    yield someone
    wait_until(someone.is_quiet, 15, "everything to have ended")


@pytest.fixture
def patient(person: CliRunner) -> CliRunner:
    """A person whose jobs take long enough to be interrupted: every commit is of two images."""
    person.environment["CAPTIONING_BATCH_SIZE"] = "2"
    return person


def many(folder: Path, photographs: Path, count: int) -> Path:
    """Make a folder of different images: the photographs, each with a little noise of its own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB").resize((224, 224)) for path in sorted(photographs.iterdir())]
    for i in range(count):
        pixels = np.asarray(originals[i % len(originals)]).astype(int) + rng.integers(-4, 5, (224, 224, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04d}.jpg")
    return folder


def test_a_folder_is_captioned_once_and_then_known(photographs: Path, tmp_path: Path) -> None:
    person = CliRunner(tmp_path / "data")  # a new one, to whom nothing was done before
    images = tmp_path / "images"
    shutil.copytree(photographs, images)
    first = person.submit(str(images))
    assert (first["scanned"], first["captioned"], first["failed"], first["model_runs"]) == (10, 10, 0, 10)

    again = person.submit(str(images))
    assert (again["known"], again["captioned"], again["new"]) == (10, 0, 0)

    (images / "flower.jpg").rename(images / "renamed.jpg")
    (images / "deeper").mkdir()
    Image.open(images / "coffee.png").rotate(90).save(images / "deeper" / "turned.png")
    changed = person.submit(str(images))
    assert (changed["known"], changed["reused"], changed["captioned"], changed["model_runs"]) == (9, 1, 1, 1)

    part = person.submit(str(images / "deeper"))
    assert (part["scanned"], part["known"]) == (1, 1)

    rows = person.producer("export", "--format", "jsonl").lines
    assert sorted(Path(row["path"]).relative_to(images) for row in rows) == sorted(
        path.relative_to(images) for path in images.rglob("*.*")
    )
    assert all(row["caption"] and row["model"] == "flickr8k-lstm" and 0 < row["confidence"] <= 1 for row in rows)

    other = person.submit(str(images), "--model", "flickr8k-gru")
    assert (other["captioned"], other["model_runs"]) == (11, 11)
    shown = person.producer("show", str(images / "coffee.png"), "--json").json
    assert {caption["model"] for caption in shown["captions"]} == {"flickr8k-lstm", "flickr8k-gru"}
    assert shown["model"] == "flickr8k-lstm"
    assert {row["model"] for row in person.producer("export", "--model", "flickr8k-gru").lines} == {"flickr8k-gru"}

    word = rows[0]["caption"].split()[-1]
    found = person.producer("search", word, "--json").json
    assert rows[0]["path"] in [row["path"] for row in found]


@pytest.mark.slow
def test_a_hostile_folder_costs_only_its_bad_files(person: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = many(tmp_path / "images", photographs, 20)
    (images / "empty.jpg").touch()
    (images / "text.jpg").write_text("not an image")
    whole = (images / "0000.jpg").read_bytes()
    (images / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "bomb.png").write_bytes(png(30000, 30000, 8, 2, b"\0" * 1000))
    (images / "scan.tif").write_bytes(b"II*\x00" + bytes(64))
    os.mkfifo(images / "pipe.jpg")
    (images / "passwd.jpg").symlink_to("/etc/passwd")
    (images / "a.jpg").mkdir()
    (images / "README.txt").write_text("read me")
    (images / ".hidden.jpg").write_bytes(whole)
    odd = os.fsencode(images) + b"/caf\xe9.jpg"
    shutil.copy(images / "0001.jpg", odd)
    shutil.copy(images / "0000.jpg", images / "copy.jpg")
    answer = person.submit(str(images))
    assert (answer["captioned"], answer["reused"], answer["failed"], answer["model_runs"]) == (20, 2, 5, 20)
    assert answer["skipped"] == sum(answer["skipped_kinds"].values()) == 5
    failures = {Path(f["path"]).name: f["reason"] for f in person.producer("failures", "--json").json}
    assert failures == {
        "empty.jpg": "unreadable",
        "text.jpg": "unreadable",
        "truncated.jpg": "truncated",
        "bomb.png": "too_large",
        "scan.tif": "unsupported",
    }
    rows = {Path(row["path"]).name: row for row in person.producer("export").lines}
    assert len(rows) == 27
    assert rows["copy.jpg"]["caption"] == rows["0000.jpg"]["caption"]
    assert rows["caf%E9.jpg"]["path_b64"]
    assert rows["bomb.png"]["status"] == "failed"
    assert rows["bomb.png"]["error"].startswith("too_large: 30000x30000 pixels")
    status = person.producer("status", "--json").json
    assert status["reasons"] == {"too_large": 1, "truncated": 1, "unreadable": 2, "unsupported": 1}

    (images / "empty.jpg").write_bytes((images / "0002.jpg").read_bytes())
    retried = person.producer("retry", str(answer["job"]), "--failed")
    assert retried.code == 3
    assert person.producer("status", str(answer["job"]), "--json").json["failed"] == 4


def test_a_killed_submit_leaves_nothing_running_and_the_same_command_goes_on(
    patient: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = many(tmp_path / "images", photographs, 80)
    running = patient.start("producer", "submit", str(images), stderr=subprocess.DEVNULL)
    wait_until(lambda: captioned(patient) > 0, 120, "the first captions")
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_until(patient.is_quiet, 10, "everything to end")
    before = captioned(patient)
    assert 0 < before < 80
    del patient.environment["CAPTIONING_BATCH_SIZE"]  # in no hurry to be interrupted any more
    done = patient.submit(str(images))
    assert (done["job"], done["new"], done["captioned"], done["failed"]) == (1, 80, 80, 0)
    assert done["model_runs"] == 80


def captioned(person: CliRunner) -> int:
    import sqlite3

    try:
        with sqlite3.connect(person.data / "captions.sqlite") as connection:
            return int(connection.execute("SELECT count(*) FROM captions").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_ctrl_c_says_so_and_loses_nothing(patient: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = many(tmp_path / "images", photographs, 60)

    def at_a_terminal() -> None:  # tests that run in the background of a shell inherit that Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = patient.start("producer", "submit", str(images), preexec_fn=at_a_terminal, **streams)
    wait_until(lambda: captioned(patient) > 0, 120, "the first captions")
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert err.splitlines()[-1].startswith("producer: interrupted")
    assert "Traceback" not in err
    wait_until(patient.is_quiet, 10, "everything to end")
    del patient.environment["CAPTIONING_BATCH_SIZE"]
    assert patient.submit(str(images))["captioned"] == 60


def kill_one(person: CliRunner, kind: str) -> bool:
    for process in person.processes():
        with suppress(psutil.Error):
            if kind in " ".join(process.cmdline()):
                process.kill()
                return True
    return False


@pytest.mark.slow
def test_killing_any_process_of_the_stack_only_costs_a_moment(
    patient: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = many(tmp_path / "images", photographs, 300)
    running = patient.start(
        "producer", "submit", str(images), "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: captioned(patient) > 0, 120, "the first captions")
    for kind in ("captioning.decoding.child", "from billiard", "-m worker --until-eof", "valkey"):
        wait_until(lambda k=kind: kill_one(patient, k), 30, f"a process of the kind {kind!r}")  # type: ignore[misc]
        time.sleep(1.0)
    out, _ = running.communicate(timeout=200)
    assert running.returncode == 0
    assert '"captioned": 300' in out


def test_two_submits_at_once_share_the_stack_and_the_captions(
    person: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = many(tmp_path / "images", photographs, 60)
    both = [
        person.start("producer", "submit", str(images), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for one in both:
        out, err = one.communicate(timeout=200)
        assert one.returncode == 0, err
        assert '"failed": 0' in out
    assert captioned(person) == 60


def test_a_folder_of_the_persons_own_called_worker_does_no_harm(
    person: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    """Our package names are everyday words; the folder where a person stands mustn't be imported."""
    for name in ("worker", "producer", "captioning", "training", "migrations", "celery"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported the wrong one')")
    shutil.copytree(photographs, tmp_path / "images")
    said = person.producer("submit", "images", cwd=tmp_path)
    assert said.code == 0, said
    assert "10 captioned" in said.out


def test_relative_settings_mean_the_folder_where_the_person_stands(photographs: Path, tmp_path: Path) -> None:
    person = CliRunner(Path("data"), {"CAPTIONING_DATABASE_URL": "sqlite:///mine.db", "CAPTIONING_ROOTS": "other=/mnt"})
    said = person.producer("submit", str(photographs), cwd=tmp_path)
    assert said.code == 0, said
    assert "10 captioned" in said.out
    assert (tmp_path / "mine.db").exists()


def test_a_person_without_a_terminal_sees_how_it_went(person: CliRunner, photographs: Path) -> None:
    said = person.producer("submit", str(photographs))
    assert said.code == 0
    assert "10 captioned" in said.out
    assert "coffee.png" in said.out or "chelsea.png" in said.out
    assert "producer search" in said.out
    assert str(person.data / "captions.sqlite") in said.out
