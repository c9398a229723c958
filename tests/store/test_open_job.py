"""Which job a request continues."""

import pytest
import sqlalchemy as sa

from captioning.store import jobs
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.schema import Job
from captioning.values import DecodeOptions, JobState, Reason
from tests.store.helpers import StoreDriver, failed

DAY = 86_400.0


def open_job(driver: StoreDriver, done_within_seconds: float = 0.0, key: str = "k") -> tuple[int, bool]:
    request = jobs.JobRequest(key, "a job", DecodeOptions())
    return jobs.open_job(driver.db, request, driver.model_id, done_within_seconds)


@pytest.fixture
def driver(db: Database) -> StoreDriver:
    return StoreDriver(db)


def found_files(number: int) -> list[FoundFile]:
    return [FoundFile(b"%d.jpg" % n, 10 + n, 1) for n in range(number)]


def finish(driver: StoreDriver, job: int) -> None:
    driver.register(job, found_files(2))
    for claim in driver.claim_all():
        driver.process_chunk(claim)
    jobs.close_registration(driver.db, job, 0, {})
    assert state(driver.db, job) == JobState.DONE


def state(db: Database, job: int) -> str:
    return jobs.progress(db, job)[0].state


def test_a_job_that_is_done_is_continued_only_on_request(driver: StoreDriver) -> None:
    job, continued = open_job(driver)
    assert not continued
    finish(driver, job)
    assert open_job(driver, DAY) == (job, True)
    other, continued = open_job(driver)
    assert other != job
    assert not continued


def test_a_job_that_is_done_is_active_again_with_its_first_new_item(driver: StoreDriver) -> None:
    job, _ = open_job(driver, DAY)
    finish(driver, job)
    assert open_job(driver, DAY) == (job, True)
    assert state(driver.db, job) == JobState.DONE
    driver.register(job, [FoundFile(b"later.jpg", 77, 1)])
    progress = jobs.progress(driver.db, job)[0]
    assert (progress.state, progress.finished_at, progress.total) == (JobState.ACTIVE, None, 3)


def test_a_job_that_is_done_is_not_continued_after_its_time(driver: StoreDriver) -> None:
    job, _ = open_job(driver, DAY)
    finish(driver, job)
    with driver.db.writing() as connection:
        connection.execute(sa.update(Job).values(created_at=Job.created_at - DAY - 1))
    assert open_job(driver, DAY)[0] != job


def test_an_unfinished_job_comes_before_one_that_is_done(driver: StoreDriver) -> None:
    unfinished, _ = open_job(driver)
    with driver.db.writing() as connection:
        connection.execute(sa.update(Job).values(key="other"))
    done, _ = open_job(driver)
    finish(driver, done)
    with driver.db.writing() as connection:
        connection.execute(sa.update(Job).values(key="k"))
    assert open_job(driver, DAY) == (unfinished, True)


def test_a_cancelled_job_is_not_continued(driver: StoreDriver) -> None:
    job, _ = open_job(driver, DAY)
    jobs.cancel(driver.db, job)
    assert open_job(driver, DAY)[0] != job


def test_a_file_that_failed_as_missing_is_queued_again_when_it_is_found_again(driver: StoreDriver) -> None:
    job, _ = open_job(driver, DAY)
    driver.register(job, found_files(1))
    claim = driver.claim()
    driver.commit_batch(claim, [failed(claim.items[0], Reason.MISSING)])
    registered = driver.register(job, found_files(1))
    assert (registered.new, registered.requeued) == (0, 1)
    assert jobs.progress(driver.db, job)[0].failed == 0
