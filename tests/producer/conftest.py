"""Fixtures: the installed programs with a data folder of their own, and a SQLite store in this process."""

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
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
def photo_folder(photographs: Path, tmp_path: Path) -> Path:
    """Ten photographs that a test may change."""
    return Path(shutil.copytree(photographs, tmp_path / "photos"))


@pytest.fixture
def readable_store(settings: Settings, store: Database, photo_folder: Path) -> Database:
    """A database in which `photo_folder` has captions for the content that its files have. No model has run."""
    request = SubmitRequest(read_sources([os.fsencode(photo_folder)]), Filters(), LSTM, DecodeOptions())
    submit(store, settings, request, lambda _: None)
    driver = StoreDriver(store, os.fsencode(photo_folder))
    claim = driver.claim()
    digests = [sha256((photo_folder / os.fsdecode(item.path)).read_bytes()).hexdigest() for item in claim.items]
    pairs = enumerate(zip(claim.items, digests, strict=True))
    driver.commit_batch(claim, [captioned(item, f"two dogs run past image {i}", digest) for i, (item, digest) in pairs])
    leases.complete(store, claim)
    return store


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
