"""Redis, PostgreSQL and workers that are started by hand; some of them die."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from captioning.queue.celery_app import make_celery
from captioning.queue.transport import TASK_NAME
from captioning.settings import read_settings
from captioning.store import jobs
from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner
from tests.journeys.test_embedded import many
from tests.support.servers import Postgres, valkey, wait_until


@pytest.fixture
def person(tmp_path: Path, postgres_server: Postgres, broker_url: str) -> CliRunner:
    environment = {"CAPTIONING_BROKER_URL": broker_url, "CAPTIONING_DATABASE_URL": postgres_server.fresh()}
    return CliRunner(tmp_path / "data", environment, experienced=True)


@contextmanager
def worker(
    person: CliRunner, log: Path, *words: str, program: str = "worker", **environment: str
) -> Iterator[psutil.Process]:
    """Run a worker while the context lasts; it is asked to end, and must. It stands where nothing may be imported."""
    own = CliRunner(person.data, person.environment | environment)
    here = log.parent / "here"
    here.mkdir(exist_ok=True)
    for name in ("billiard", "multiprocessing", "captioning") if program == "worker" else ():
        (here / f"{name}.py").write_text("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    with log.open("a") as file:
        process = own.start(program, *words, stdout=file, stderr=file, start_new_session=True, cwd=here)
    try:
        yield psutil.Process(process.pid)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            kill_group(process.pid)


def kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def database(person: CliRunner) -> Database:
    return Database(person.environment["CAPTIONING_DATABASE_URL"])


def done(db: Database) -> int:
    rows = jobs.progress(db)
    return sum(row.done for row in rows)


@pytest.mark.slow
def test_two_workers_share_a_job_and_one_may_die(person: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = many(tmp_path / "images", photographs, 200)
    short = {"CAPTIONING_LEASE_SECONDS": "5", "CAPTIONING_IMAGE_SECONDS": "3", "CAPTIONING_CHUNK_SIZE": "32"}
    submitted = person.producer("submit", str(images), "--json")
    assert submitted.code == 0
    assert submitted.json["new"] == 200
    assert submitted.json["captioned"] == 0
    db = database(person)
    with worker(person, tmp_path / "1.log", **short) as first, worker(person, tmp_path / "2.log", **short):
        wait_until(lambda: done(db) >= 32, 120, "a first chunk")
        kill_group(first.pid)
        answer = person.submit(str(images))
    assert (answer["new"], answer["captioned"] + answer["reused"], answer["failed"]) == (200, 200, 0)
    assert 200 <= answer["model_runs"] <= 232
    assert person.submit(str(images))["known"] == 200
    db.close()


@pytest.mark.slow
def test_bells_that_are_lost_or_doubled_or_strange_do_no_harm(
    person: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    settings = read_settings(broker_url=person.environment["CAPTIONING_BROKER_URL"])
    app = make_celery(settings)
    assert person.producer("db", "upgrade").out.startswith("revision none -> ")
    with worker(person, tmp_path / "log"):
        app.send_task("captioning.no_such_task", queue="captions")
        app.send_task(TASK_NAME, args=[1, 2, 3])
        app.send_task(TASK_NAME, args=[b"x".hex()], serializer="json", headers={"odd": 1})
        for _ in range(20):
            app.send_task(TASK_NAME)  # nothing is there to do
        db = database(person)
        wait_until(lambda: workers.live_workers(db), 60, "the worker")
        person.producer("submit", str(photographs))
        with app.connection_for_write() as connection:
            connection.default_channel.client.flushall()  # every bell is lost
        wait_until(lambda: done(db) == 10, 120, "the captions")
        db.close()


@pytest.mark.slow
def test_a_broker_that_is_down_delays_and_loses_nothing(
    person: CliRunner, photographs: Path, tmp_path: Path, short: Path
) -> None:
    person.environment["CAPTIONING_BROKER_URL"] = f"redis+socket://:secret@{short}/late/broker.sock"
    said = person.producer("submit", str(photographs), "--json")
    assert said.code == 0
    assert said.json["new"] == 10
    assert said.err.startswith("producer: the broker doesn't answer")
    assert said.err.count("\n") == 1
    with worker(person, tmp_path / "log"):
        time.sleep(1)
        with valkey(short / "late"):
            db = database(person)
            wait_until(lambda: done(db) == 10, 120, "the captions")
            db.close()


@pytest.mark.slow
def test_a_worker_asked_to_stop_gives_its_chunk_back_at_once(person: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = many(tmp_path / "images", photographs, 300)
    person.producer("submit", str(images))
    db = database(person)
    with worker(person, tmp_path / "log", CAPTIONING_BATCH_SIZE="8", CAPTIONING_CHUNK_SIZE="300") as process:
        wait_until(lambda: done(db) >= 8, 120, "the first captions")
        started = time.monotonic()
        process.terminate()
        process.wait(20)
        assert time.monotonic() - started < 20
    model = [progress.done for progress in jobs.progress(db)]
    assert model[0] < 300
    with db.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM chunks WHERE state = 'running'").scalar_one() == 0
    db.close()


def test_celerys_own_command_starts_a_worker_too_and_its_parent_never_loads_torch(
    person: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    words = ("-A", "worker", "worker", "--loglevel", "INFO")
    with worker(person, tmp_path / "log", *words, program="celery") as process:
        answer = person.submit(str(photographs))
        assert answer["captioned"] == 10
        loaded = {Path(m.path).name for m in process.memory_maps()}
        assert not any(name.startswith("libtorch") for name in loaded)
        children = {Path(m.path).name for c in process.children() for m in c.memory_maps()}
        assert any(name.startswith("libtorch") for name in children)


@pytest.mark.slow
def test_a_root_that_no_worker_sees_is_named_and_blames_no_image(
    person: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    images = many(tmp_path / "images", photographs, 8)
    person.producer("submit", str(images))
    images.rename(hidden)
    db = database(person)
    with worker(person, tmp_path / "log"):
        wait_until(lambda: workers.live_workers(db), 60, "the worker")
        status = person.producer("status")
        assert "no worker sees the root 'images'" in status.out
        assert done(db) == 0
    with worker(person, tmp_path / "log", CAPTIONING_ROOTS=f"images={hidden}"):
        wait_until(lambda: done(db) == 8, 120, "the captions under the worker's own mount")
    assert jobs.progress(db)[0].failed == 0
    db.close()


@pytest.mark.slow
def test_a_folder_unmounted_below_its_root_blames_no_image_until_a_submit_misses_it_too(
    person: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    many(images / "disk", photographs, 6)
    many(images / "here", photographs, 4)
    person.environment |= {"CAPTIONING_CHUNK_SIZE": "1000"}
    assert person.producer("submit", str(images), "--exclude", "here/*").code == 0
    (images / "disk").rename(tmp_path / "elsewhere")
    (images / "disk").mkdir()  # a mount point without its disk
    db = database(person)
    with worker(person, tmp_path / "log"):
        time.sleep(6)
        assert done(db) == 0
        person.producer("submit", str(images))
        wait_until(lambda: done(db) == 10, 90, "the images that are there, and the missing ones' verdict")
    assert sorted(progress.failed for progress in jobs.progress(db)) == [0, 6]
    db.close()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"CAPTIONING_MODEL": "blip"}, "no model named 'blip'"),
        ({"CAPTIONING_BROKER_URL": ""}, "CAPTIONING_BROKER_URL is not set"),
        ({"CAPTIONING_DEVICE": "cuda:7"}, "sees no CUDA GPU"),
        ({"CAPTIONING_BATCH_SIZE": "none"}, "CAPTIONING_BATCH_SIZE=none"),
        ({"CAPTIONING_DATABASE_URL": "mysql://x/y"}, "the store runs on PostgreSQL and SQLite"),
        ({"CAPTIONING_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:9/x"}, "doesn't answer"),
    ],
)
def test_a_worker_that_cannot_work_says_why_and_takes_nothing(
    person: CliRunner, environment: dict[str, str], says: str
) -> None:
    said = CliRunner(person.data, person.environment | environment).run("worker")
    assert said.code in (1, 2)
    assert says in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


def test_flower_shows_the_tasks(person: CliRunner, photographs: Path, tmp_path: Path) -> None:
    import base64
    import json
    import socket
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("-A", "captioning.queue", "flower", f"--port={port}", "--address=127.0.0.1", "--basic-auth=me:secret")

    def asked(path: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"me:secret").decode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())

    def answers() -> bool:
        try:
            return bool(asked("/healthcheck"))
        except OSError:
            return False

    with worker(person, tmp_path / "flower.log", *words, program="celery"):
        wait_until(answers, 60, "Flower")
        with worker(person, tmp_path / "log"):
            assert person.submit(str(photographs))["captioned"] == 10
            wait_until(lambda: TASK_NAME in asked("/api/tasks"), 20, "the task in Flower")
        tasks = json.loads(asked("/api/tasks"))
        assert {task["name"] for task in tasks.values()} == {TASK_NAME}
        assert "SUCCESS" in {task["state"] for task in tasks.values()}
