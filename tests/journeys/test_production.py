"""Redis, PostgreSQL and workers that are started separately; some of them die."""

import json
import time
from pathlib import Path

import pytest

from captioning.queue.celery_app import make_celery
from captioning.queue.message import QUEUE, TASK_NAME
from captioning.settings import read_settings
from captioning.store import jobs, workers
from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner
from tests.journeys.helpers import count_done, http_get, kill_group, make_images, running
from tests.support.polling import free_port, wait_until
from tests.support.postgres import Postgres
from tests.support.valkey import valkey


@pytest.fixture
def runner(tmp_path: Path, postgres_server: Postgres, broker_url: str) -> CliRunner:
    """A runner with a broker and an empty PostgreSQL database."""
    environment = {"CAPTIONING_BROKER_URL": broker_url, "CAPTIONING_DATABASE_URL": postgres_server.fresh()}
    return CliRunner(tmp_path / "data", environment, with_compiled_model=True)


def open_database(runner: CliRunner) -> Database:
    return Database(runner.environment["CAPTIONING_DATABASE_URL"])


@pytest.mark.slow
def test_two_workers_share_a_job_and_one_may_die(runner: CliRunner, photographs: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", photographs, 200)
    short_leases = {
        "CAPTIONING_LEASE_SECONDS": "5",
        "CAPTIONING_DECODE_TIMEOUT_SECONDS": "3",
        "CAPTIONING_CHUNK_SIZE": "32",
    }
    submitted = runner.producer("submit", str(images), "--json")
    assert submitted.code == 0
    assert submitted.json["new"] == 200
    assert submitted.json["captioned"] == 0
    db = open_database(runner)
    with (
        running(runner, tmp_path / "1.log", **short_leases) as first,
        running(runner, tmp_path / "2.log", **short_leases),
    ):
        wait_until(lambda: count_done(db) >= 32, 120, "the first chunk")
        kill_group(first.pid)
        counts = runner.submit(str(images))
    assert (counts["new"], counts["captioned"] + counts["reused"], counts["failed"]) == (200, 200, 0)
    assert 200 <= counts["model_runs"] <= 232
    assert runner.submit(str(images))["known"] == 200
    db.close()


@pytest.mark.slow
def test_lost_duplicate_and_foreign_messages_do_no_harm(runner: CliRunner, photographs: Path, tmp_path: Path) -> None:
    app = make_celery(read_settings(broker_url=runner.environment["CAPTIONING_BROKER_URL"]))
    assert runner.producer("db", "upgrade").out.startswith("revision none -> ")
    with running(runner, tmp_path / "log"):
        app.send_task("captioning.no_such_task", queue=QUEUE)
        app.send_task(TASK_NAME, args=[1, 2, 3])
        app.send_task(TASK_NAME, args=[b"x".hex()], serializer="json", headers={"odd": 1})
        for _ in range(20):
            app.send_task(TASK_NAME)  # there is no work
        db = open_database(runner)
        wait_until(lambda: workers.live_workers(db), 60, "the worker")
        runner.producer("submit", str(photographs))
        with app.connection_for_write() as connection:
            connection.default_channel.client.flushall()  # deletes every wake-up message
        wait_until(lambda: count_done(db) == 10, 120, "the captions")
        db.close()


@pytest.mark.slow
def test_a_submit_while_the_broker_is_down_is_captioned_later(
    runner: CliRunner, photographs: Path, tmp_path: Path, short_folder: Path
) -> None:
    runner.environment["CAPTIONING_BROKER_URL"] = f"redis+socket://:secret@{short_folder}/late/broker.sock"
    result = runner.producer("submit", str(photographs), "--json")
    assert result.code == 0
    assert result.json["new"] == 10
    assert result.err.startswith("producer: the broker does not answer")
    assert result.err.count("\n") == 1
    with running(runner, tmp_path / "log"):
        time.sleep(1)
        with valkey(short_folder / "late"):
            db = open_database(runner)
            wait_until(lambda: count_done(db) == 10, 120, "the captions")
            db.close()


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_releases_its_chunk_at_once(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", photographs, 300)
    runner.producer("submit", str(images))
    db = open_database(runner)
    with running(runner, tmp_path / "log", CAPTIONING_BATCH_SIZE="8", CAPTIONING_CHUNK_SIZE="300") as worker:
        wait_until(lambda: count_done(db) >= 8, 120, "the first captions")
        started = time.monotonic()
        worker.terminate()
        worker.wait(20)
        assert time.monotonic() - started < 20
    assert count_done(db) < 300
    with db.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM chunks WHERE state = 'running'").scalar_one() == 0
    db.close()


def test_celerys_own_command_starts_a_worker_whose_parent_process_does_not_load_torch(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    arguments = ("-A", "worker", "worker", "--loglevel", "INFO")
    with running(runner, tmp_path / "log", *arguments, program="celery") as worker:
        counts = runner.submit(str(photographs))
        assert counts["captioned"] == 10
        libraries = {Path(m.path).name for m in worker.memory_maps()}
        assert not any(name.startswith("libtorch") for name in libraries)
        libraries_of_children = {Path(m.path).name for child in worker.children() for m in child.memory_maps()}
        assert any(name.startswith("libtorch") for name in libraries_of_children)


@pytest.mark.slow
def test_a_root_that_no_worker_sees_is_reported_and_no_image_fails(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    images = make_images(tmp_path / "images", photographs, 8)
    runner.producer("submit", str(images))
    images.rename(moved)
    db = open_database(runner)
    with running(runner, tmp_path / "log"):
        wait_until(lambda: workers.live_workers(db), 60, "the worker")
        status = runner.producer("status")
        assert "no worker sees the root 'images'" in status.out
        assert count_done(db) == 0
    with running(runner, tmp_path / "log", CAPTIONING_ROOTS=f"images={moved}"):
        wait_until(lambda: count_done(db) == 8, 120, "the captions, with the worker's own path of the root")
    assert jobs.progress(db)[0].failed == 0
    db.close()


@pytest.mark.slow
def test_images_of_an_unmounted_folder_fail_only_after_a_second_submit_misses_them_too(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    make_images(images / "disk", photographs, 6)
    make_images(images / "here", photographs, 4)
    runner.environment |= {"CAPTIONING_CHUNK_SIZE": "1000"}
    assert runner.producer("submit", str(images), "--exclude", "here/*").code == 0
    (images / "disk").rename(tmp_path / "elsewhere")
    (images / "disk").mkdir()  # like the mount point of an unmounted disk
    db = open_database(runner)
    with running(runner, tmp_path / "log"):
        time.sleep(6)
        assert count_done(db) == 0
        runner.producer("submit", str(images))
        wait_until(lambda: count_done(db) == 10, 90, "captions of the existing images and failures of the others")
    assert sorted(progress.failed for progress in jobs.progress(db)) == [0, 6]
    db.close()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CAPTIONING_MODEL": "blip"}, "no model named 'blip'"),
        ({"CAPTIONING_BROKER_URL": ""}, "CAPTIONING_BROKER_URL is not set"),
        ({"CAPTIONING_DEVICE": "cuda:7"}, "finds no CUDA GPU"),
        ({"CAPTIONING_BATCH_SIZE": "none"}, "CAPTIONING_BATCH_SIZE=none"),
        ({"CAPTIONING_DATABASE_URL": "mysql://x/y"}, "the store runs on PostgreSQL and SQLite"),
        ({"CAPTIONING_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:9/x"}, "does not answer"),
    ],
)
def test_a_worker_that_cannot_work_gives_the_reason_and_exits(
    runner: CliRunner, environment: dict[str, str], message: str
) -> None:
    environment |= {"CAPTIONING_DATABASE_RETRY_SECONDS": "1"}
    result = CliRunner(runner.data, runner.environment | environment).run("worker")
    assert result.code in (1, 2)
    assert message in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_flower_shows_the_tasks(runner: CliRunner, photographs: Path, tmp_path: Path) -> None:
    port, credentials = free_port(), "me:secret"
    arguments = ("-A", "captioning.queue", "flower", f"--port={port}", "--address=127.0.0.1")

    def flower(path: str) -> str:
        return http_get(port, path, credentials)

    def flower_answers() -> bool:
        try:
            return bool(flower("/healthcheck"))
        except OSError:
            return False

    with running(runner, tmp_path / "flower.log", *arguments, f"--basic-auth={credentials}", program="celery"):
        wait_until(flower_answers, 60, "Flower")
        with running(runner, tmp_path / "log"):
            assert runner.submit(str(photographs))["captioned"] == 10
            wait_until(lambda: TASK_NAME in flower("/api/tasks"), 20, "the task in Flower")
        tasks = json.loads(flower("/api/tasks"))
        assert {task["name"] for task in tasks.values()} == {TASK_NAME}
        assert "SUCCESS" in {task["state"] for task in tasks.values()}
