"""Fixtures: real servers once a session, fresh databases each test, real photographs."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations
from captioning.store.database import Database
from scripts.sample_pictures import copy_samples
from tests.servers import Postgres, postgres, valkey

for name in [n for n in os.environ if n.startswith("CAPTIONING_") and not n.startswith("CAPTIONING_TEST_")]:
    del os.environ[name]  # a developer's own settings are no part of a test


@pytest.fixture(scope="session")
def short() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(short: Path) -> Iterator[Postgres]:
    with postgres(short) as server:
        yield server


@pytest.fixture(scope="session")
def broker_url(short: Path) -> Iterator[str]:
    with valkey(short / "valkey") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, on each of the two kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/captions.sqlite"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.fresh()


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    """A migrated database, on each of the two kinds."""
    database = Database(url)
    migrations.upgrade(database)
    yield database
    database.close()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten freely licensed photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    copy_samples(folder)
    return folder
