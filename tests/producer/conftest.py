"""Fixtures: the installed programs with a data folder of their own, and a SQLite store in this process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations
from captioning.settings import Settings, read_settings
from captioning.store import leases
from captioning.store.database import Database
from captioning.values import DecodeOptions
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, submit
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import LSTM, StoreDriver, captioned


@pytest.fixture
def cli(tmp_path: Path) -> CliRunner:
    return CliRunner(tmp_path / "data", in_process=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(data_dir=tmp_path / "data")


@pytest.fixture
def store(settings: Settings) -> Iterator[Database]:
    """An empty database in the data folder of `settings` and of `cli`."""
    db = Database.open(settings)
    migrations.ensure_schema(db)
    yield db
    db.close()


@pytest.fixture
def captioned_store(settings: Settings, store: Database, photographs: Path) -> Database:
    """A database in which ten photographs have captions. No model has run."""
    request = SubmitRequest(read_sources([os.fsencode(photographs)]), Filters(), LSTM, DecodeOptions())
    submit(store, settings, request, lambda _: None)
    driver = StoreDriver(store, os.fsencode(photographs))
    claim = driver.claim()
    driver.commit_batch(claim, [captioned(item, f"two dogs run past image {i}") for i, item in enumerate(claim.items)])
    leases.complete(store, claim)
    return store
