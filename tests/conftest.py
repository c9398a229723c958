"""Fixtures: real servers once a session, fresh databases each test, real photographs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations
from captioning.store.database import Database
from scripts.sample_images import copy_samples
from tests.support.servers import Postgres, postgres, valkey

for name in [n for n in os.environ if n.startswith("CAPTIONING_") and not n.startswith("CAPTIONING_TEST_")]:
    del os.environ[name]  # a developer's own settings are no part of a test


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--every-cell", action="store_true", help="run all cells of the fault matrix, not the quick ones")
    group.addoption("--rounds", type=int, default=1, help="how often each cell is run")
    group.addoption("--table", default="", help="write the table of cells to this file")
    group.addoption("--slow", action="store_true", help="also run what takes minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several test processes a core: where each computes with all, all take longer."""
    its = getattr(config, "workerinput", None)
    if its is None:  # for persons who have captioned before: see `CliRunner`
        os.environ["CAPTIONING_TEST_RUNTIME"] = tempfile.mkdtemp(prefix="cm-runtime-")
    if its is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(its["workerid"].removeprefix("gw")) % len(cores)]})


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["CAPTIONING_TEST_RUNTIME"], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `make faults` runs, and cells on SQLite that say nothing new there."""

    def waits(item: pytest.Item) -> bool:
        if item.get_closest_marker("slow") is not None and not config.getoption("--slow"):
            return True
        cell = item.get_closest_marker("cell")
        if cell is None:
            return False
        if not (cell.kwargs.get("quick", False) or config.getoption("--every-cell")):
            return True
        stores_are_named = item.get_closest_marker("stores") is not None
        on_sqlite = isinstance(item, pytest.Function) and item.callspec.params.get("store") == "sqlite"
        return on_sqlite and not stores_are_named and not cell.kwargs.get("sqlite", False)

    later = [item for item in items if waits(item)]
    config.hook.pytest_deselected(items=later)
    items[:] = [item for item in items if item not in later]


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
