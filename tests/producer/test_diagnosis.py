"""Why a job is stalled: each reason is found, and nothing is reported for a job that proceeds."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import make_url

import migrations
from captioning.settings import Settings
from captioning.store import jobs, leases, workers
from captioning.store.database import Database
from captioning.store.workers import WorkerInfo
from captioning.values import JobState
from producer.diagnosis import diagnose, other_waiting_job
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import GRU, LSTM, StoreDriver
from tests.support.postgres import Postgres

BROKER = "redis://127.0.0.1:9/0"


@pytest.fixture
def driver(store: Database) -> StoreDriver:
    return StoreDriver(store)


@pytest.fixture
def job(driver: StoreDriver) -> int:
    return driver.submit(2)


def reasons(driver: StoreDriver, settings: Settings, job: int) -> list[str]:
    return diagnose(driver.db, settings, driver.progress(job))


def heartbeat(store: Database, *digests: str, roots: list[str]) -> None:
    workers.heartbeat(store, WorkerInfo("w1", "host", digests, "torch"), roots)


def test_without_a_worker_the_remedy_depends_on_the_mode(driver: StoreDriver, settings: Settings, job: int) -> None:
    assert reasons(driver, settings, job) == ["no worker is running: run the same `producer submit` again"]
    with_broker = settings.model_copy(update={"broker_url": BROKER})
    assert reasons(driver, with_broker, job) == ["no worker is running: start one with `worker`"]


def test_a_model_that_no_worker_has_is_named(driver: StoreDriver, settings: Settings, job: int) -> None:
    heartbeat(driver.db, GRU.digest, roots=["photos"])
    (reason,) = reasons(driver, settings, job)
    assert reason.startswith(f"no worker has the job's model, lstm {LSTM.digest[:16]}")


def test_a_root_that_no_worker_sees_is_named(driver: StoreDriver, settings: Settings, job: int) -> None:
    heartbeat(driver.db, LSTM.digest, roots=[])
    assert reasons(driver, settings, job) == ["no worker sees the root 'photos': is it mounted?"]
    heartbeat(driver.db, LSTM.digest, roots=["photos"])
    assert reasons(driver, settings, job) == []


def test_a_worker_is_asked_about_roots_only_after_a_heartbeat_since_the_job_exists(
    driver: StoreDriver, settings: Settings, job: int
) -> None:
    heartbeat(driver.db, LSTM.digest, roots=[])
    later = replace(driver.progress(job), created_at=driver.progress(job).created_at + 60)
    assert diagnose(driver.db, settings, later) == []


def test_the_last_error_of_waiting_images_is_reported(driver: StoreDriver, settings: Settings) -> None:
    job = driver.submit(1)
    heartbeat(driver.db, LSTM.digest, roots=["photos"])
    leases.release(driver.db, driver.claim(), 0.0, error="the folder /photos is not mounted")
    assert reasons(driver, settings, job) == ["1 image waiting: the folder /photos is not mounted"]


def test_a_full_disk_is_reported(driver: StoreDriver, settings: Settings, job: int) -> None:
    heartbeat(driver.db, LSTM.digest, roots=["photos"])
    found = diagnose(driver.db, settings, driver.progress(job), full_disk_bytes=10**18)
    assert found == [f"the disk of {Path(settings.data_dir)} is full: free some space"]


def test_a_database_that_takes_no_writes_is_named_beside_the_missing_worker(
    postgres_server: Postgres, settings: Settings
) -> None:
    url = postgres_server.fresh()
    db = Database(url)
    migrations.upgrade(db)
    job = StoreDriver(db).submit(1)
    name = make_url(url).database
    with db.writing() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    db.close()
    reasons = diagnose(db, settings, jobs.progress(db, job)[0])
    assert reasons[0].startswith("no worker is running")
    assert "is read-only" in reasons[1]
    db.close()


def test_another_job_that_stands_still_is_named(driver: StoreDriver, settings: Settings, job: int) -> None:
    newest = driver.submit(1, key="newest")
    heartbeat(driver.db, LSTM.digest, roots=["photos"])
    assert other_waiting_job(driver.db, settings, newest) == ""
    heartbeat(driver.db, LSTM.digest, roots=[])
    assert other_waiting_job(driver.db, settings, newest) == (
        f"job {job} is also stalled: no worker sees the root 'photos': is it mounted? producer status {job}"
    )


def test_status_without_a_number_names_a_stalled_job_beside_a_newest_one_that_is_done(
    driver: StoreDriver, cli: CliRunner
) -> None:
    stalled = driver.submit(1)
    jobs.pause(driver.db, stalled)
    newest = driver.submit(1, key="newest")
    driver.process_chunk(driver.claim())
    assert "is also stalled" not in cli.producer("status").out
    jobs.resume(driver.db, stalled)
    line = f"job {stalled} is also stalled: no worker is running: run the same `producer submit` again; producer status"
    assert cli.producer("status").out.splitlines()[-1] == f"{line} {stalled}"
    assert "is also stalled" not in cli.producer("status", str(newest)).out


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.CANCELLED, JobState.DONE])
def test_a_job_that_is_not_active_is_not_stalled(
    driver: StoreDriver, settings: Settings, job: int, state: JobState
) -> None:
    assert diagnose(driver.db, settings, replace(driver.progress(job), state=state)) == []


def test_a_job_without_open_images_is_not_stalled(driver: StoreDriver, settings: Settings, job: int) -> None:
    driver.process_chunk(driver.claim())
    assert jobs.progress(driver.db, job)[0].done == 2
    assert reasons(driver, settings, job) == []
