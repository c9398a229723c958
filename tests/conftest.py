"""Fixtures for all tests: real servers, once per session; an empty database per test; real photographs."""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import migrations
from captioning.store.database import Database
from scripts.sample_images import copy_samples
from tests.support.postgres import Postgres, postgres
from tests.support.s3 import Bucket, new_bucket, s3_server
from tests.support.valkey import valkey

SERVERS = {"postgres_server", "broker_url", "s3_endpoint"}  # fixtures that start a server
PROCESS_FOLDERS = {"faults", "journeys", "decoding"}  # their tests start programs or decode processes
HEAVY_FILES = {  # their tests train, compile or run a whole model, or try many generated examples: minutes in all
    "test_captioner.py",
    "test_cli.py",
    "test_compare.py",
    "test_data.py",
    "test_encoder.py",
    "test_hostile.py",
    "test_hostile_bundles.py",
    "test_int8.py",
    "test_int8_ranges.py",
    "test_state_machine.py",
    "test_train.py",
}

for name in [n for n in os.environ if n.startswith("CAPTIONING_") and not n.startswith("CAPTIONING_TEST_")]:
    del os.environ[name]  # a developer's own settings must not influence tests


EXAMPLES = os.environ.get("CAPTIONING_TEST_EXAMPLES")
"""Generated examples of each property. Without a number they are the same ones in every run, with one they are new."""

hypothesis.settings.register_profile(
    "captionmill", derandomize=EXAMPLES is None, max_examples=int(EXAMPLES or 100), deadline=None, print_blob=True
)
hypothesis.settings.load_profile("captionmill")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--every-scenario", action="store_true", help="run all fault scenarios, not only the quick ones")
    group.addoption("--rounds", type=int, default=1, help="how often each fault scenario runs")
    group.addoption("--table", default="", help="write the results of the fault scenarios to this file, as a table")
    group.addoption("--fast", action="store_true", help="run only unit tests: no servers, processes or whole models")
    group.addoption("--consumers", action="store_true", help="also read exports back with the programs they are for")
    group.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Create the shared folder of compiled models (see `CliRunner`), and give each test process one core.

    Without a core of its own, every test process would compute on all cores, and all would take longer.
    """
    worker_input = getattr(config, "workerinput", None)  # set by pytest-xdist in each of its processes
    if worker_input is None:
        os.environ["CAPTIONING_TEST_RUNTIME"] = tempfile.mkdtemp(prefix="cm-runtime-")
    elif hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker_input["workerid"].removeprefix("gw")) % len(cores)]})
        if "torch" in sys.modules:  # imported before, with a thread for every core of the machine
            sys.modules["torch"].set_num_threads(1)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["CAPTIONING_TEST_RUNTIME"], ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast, do not even import the tests that it leaves out: their imports take half of its time.

    Tests with the consumers of exports are run by an option only: `make test` needs Python packages alone.
    """
    if collection_path.name == "consumers" and not config.getoption("--consumers"):
        return True
    return True if config.getoption("--fast") and collection_path.name in HEAVY_FILES | PROCESS_FOLDERS else None


@pytest.hookimpl(tryfirst=True)  # before pytest's own hook, which evaluates `-m`
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that start processes or compute much; deselect those that run only when an option asks for them."""
    for item in items:
        if _starts_processes(item):
            item.add_marker("processes")
        if item.path.name in HEAVY_FILES:
            item.add_marker("heavy")
    deselected = [item for item in items if _is_deselected(item, config)]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]
    items.sort(key=lambda item: item.path.name not in HEAVY_FILES)  # long tests first, or one process ends last, alone


def _starts_processes(item: pytest.Item) -> bool:
    if item.path.parent.name in PROCESS_FOLDERS:
        return True
    return isinstance(item, pytest.Function) and (
        not SERVERS.isdisjoint(item.fixturenames) or _parameter(item, "url") == "postgresql"
    )


def _is_deselected(item: pytest.Item, config: pytest.Config) -> bool:
    """Return whether a test is slow, or a scenario that runs on this database only with --every-scenario."""
    if item.get_closest_marker("slow") is not None and not config.getoption("--slow"):
        return True
    if item.get_closest_marker("processes") is not None and config.getoption("--fast"):
        return True
    scenario = item.get_closest_marker("scenario")
    if scenario is None:
        return False
    quick, every = scenario.kwargs.get("quick", False), config.getoption("--every-scenario")
    if _parameter(item, "store") == "sqlite" and item.get_closest_marker("stores") is None:
        return not (quick == "both" or (every and scenario.kwargs.get("sqlite", False)))
    return not (quick or every)


def _parameter(item: pytest.Item, name: str) -> object:
    """Return the value of a test's parameter; None when the test has no such parameter."""
    return item.callspec.params.get(name) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """An empty folder with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(short_folder: Path) -> Iterator[Postgres]:
    with postgres(short_folder) as server:
        yield server


@pytest.fixture(scope="session")
def broker_url(short_folder: Path) -> Iterator[str]:
    with valkey(short_folder / "valkey") as url:
        yield url


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path) -> Bucket:
    """An empty bucket."""
    return new_bucket(s3_endpoint, f"photos-{secrets.token_hex(4)}", tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/captions.sqlite"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.fresh()


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    """A migrated database without rows, once on SQLite and once on PostgreSQL."""
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
