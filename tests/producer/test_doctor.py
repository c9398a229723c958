"""The checks of `producer doctor`."""

from pathlib import Path

import pytest

import migrations
from captioning.settings import Settings, read_settings
from captioning.store import workers
from captioning.store.database import Database
from captioning.store.workers import WorkerInfo
from producer.doctor import Check, run_checks
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import LSTM
from tests.support.postgres import Postgres


def check(settings: Settings, name: str) -> Check:
    return next(check for check in run_checks(settings) if check.name == name)


def test_every_check_passes_before_the_first_submit_and_nothing_is_written(settings: Settings) -> None:
    checks = list(run_checks(settings))
    assert all(check.ok for check in checks), checks
    assert not settings.data_dir.exists()


def test_the_lease_is_shown_as_it_is_used(tmp_path: Path) -> None:
    settings = read_settings(data_dir=tmp_path, lease_seconds=45, decode_timeout_seconds=20)
    assert check(settings, "lease").message == "45 s"


def test_a_lease_that_was_raised_names_the_settings(tmp_path: Path) -> None:
    settings = read_settings(data_dir=tmp_path, lease_seconds=10, decode_timeout_seconds=20)
    lease = check(settings, "lease")
    assert lease.ok
    assert lease.message == (
        "30 s, raised from CAPTIONING_LEASE_SECONDS=10: a lease is at least 1.5 x CAPTIONING_DECODE_TIMEOUT_SECONDS=20"
    )


@pytest.mark.parametrize(
    ("dropped", "text"),
    [
        (0, "w1 on host"),
        (1, "w1 on host; 1 message in the queue was not a wake-up message and was dropped: who else writes to the"),
        (2, "w1 on host; 2 messages in the queue were not wake-up messages and were dropped: who else writes to the"),
    ],
)
def test_dropped_messages_are_counted(store: Database, settings: Settings, dropped: int, text: str) -> None:
    with_broker = settings.model_copy(update={"broker_url": "redis://127.0.0.1:9/0"})
    workers.heartbeat(store, WorkerInfo("w1", "host", (LSTM.digest,), "torch"), [], dropped_messages=dropped)
    assert check(with_broker, "workers").message.startswith(text)


def test_a_missing_worker_and_an_unreachable_broker_are_reported(store: Database, settings: Settings) -> None:
    with_broker = settings.model_copy(update={"broker_url": "redis://127.0.0.1:9/0"})
    assert check(with_broker, "workers") == Check(
        "workers", False, "no worker has sent a heartbeat in the last 30 s: start one with `worker`."
    )
    broker = check(with_broker, "broker")
    assert not broker.ok
    assert broker.message.startswith("the broker does not answer")


@pytest.mark.parametrize("url", ["", "sqlite:///{}"])
def test_the_sqlite_file_has_the_same_name_before_and_after_it_exists(tmp_path: Path, url: str) -> None:
    file = tmp_path / "captions.sqlite"
    settings = read_settings(data_dir=tmp_path, database_url=url.format(file))
    before = check(settings, "database").message
    migrations.upgrade(Database.open(settings))
    after = check(settings, "database").message
    assert {before.split()[0].rstrip(","), after.split()[0].rstrip(",")} == {str(file)}


def test_a_database_without_tables_has_no_worker_yet(cli: CliRunner, postgres_server: Postgres) -> None:
    cli.environment |= {
        "CAPTIONING_DATABASE_URL": postgres_server.fresh(),
        "CAPTIONING_BROKER_URL": "redis://127.0.0.1:9/0",
    }
    messages = {check["name"]: check["message"] for check in cli.producer("doctor", "--json").json}
    assert messages["database"].endswith("empty; the first submit creates its tables")
    assert messages["workers"].startswith("no worker has sent a heartbeat")


def test_a_data_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = check(read_settings(data_dir=tmp_path / "file" / "data"), "data folder")
    assert not folder.ok
    assert "is not a folder: set CAPTIONING_DATA_DIR" in folder.message


def test_a_command_that_reads_reports_a_data_folder_that_is_a_file(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    result = cli.producer("jobs")
    assert (result.code, result.err) == (
        2, f"producer: CAPTIONING_DATA_DIR={tmp_path / 'data'} is not a folder: set it to one.\n",
    )  # fmt: skip
