"""`producer forget` on the command line: a number is a job, anything else is a path."""

from pathlib import Path

import pytest

from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import StoreDriver


@pytest.fixture
def driver(store: Database) -> StoreDriver:
    return StoreDriver(store)


def test_a_job_is_forgotten_by_its_number_and_counted_by_a_dry_run(driver: StoreDriver, cli: CliRunner) -> None:
    job = driver.submit(2)
    counted = cli.producer("forget", str(job), "--dry-run")
    assert (counted.code, counted.out) == (
        0,
        f"would remove job {job} with its 2 items, 2 files that no other job lists"
        " (out of search and export until the next submit)\n",
    )
    assert cli.producer("forget", str(job), "--yes").out.startswith(f"removed job {job} ")
    assert cli.producer("jobs", "--json").json == []


def test_a_path_is_not_taken_for_a_job(driver: StoreDriver, cli: CliRunner, tmp_path: Path) -> None:
    driver.submit(2)
    result = cli.producer("forget", str(tmp_path / "1"), "--dry-run")
    assert (result.code, result.err) == (2, f"producer: nothing is registered at or below {tmp_path / '1'}.\n")


def test_the_path_that_is_removed_is_named_as_the_store_knows_it(driver: StoreDriver, cli: CliRunner) -> None:
    driver.submit(2, "a")
    folder = cli.producer("forget", "/photos/../photos", "--dry-run")
    assert folder.out == "would remove 2 files below /photos, their 2 items in 1 job\n"
    asked = cli.producer("forget", "/photos/a-0.jpg")
    assert asked.err.startswith(
        "producer: Remove the file /photos/a-0.jpg, its 1 item in 1 job? There is no terminal to ask on"
    )


def test_human_captions_are_removed_only_together_with_those_of_the_machine(cli: CliRunner) -> None:
    result = cli.producer("forget", "1", "--human")
    assert result.code == 2
    assert "--human needs --captions" in result.err
