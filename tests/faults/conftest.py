"""Fault scenarios: the world that each one breaks, the databases on which it runs, and the table of results.

`make test` runs the quick scenarios. `make faults` runs all of them, twice, and writes the table to docs/faults.md.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.table import Table
from tests.faults.world import World
from tests.support.postgres import PostgresServer
from tests.support.valkey import Broker


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--table") and not hasattr(config, "workerinput"):  # one of several test processes writes
        config.pluginmanager.register(Table(Path(config.getoption("--table"))))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" not in metafunc.fixturenames:
        return
    stores = metafunc.definition.get_closest_marker("stores")
    metafunc.parametrize("store", stores.args if stores is not None else ("postgresql", "sqlite"))
    metafunc.parametrize("round_", range(metafunc.config.getoption("--rounds")), ids=lambda n: f"round{n + 1}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Record the result of a scenario for the table and for the world's fixture."""
    scenario, funcargs = item.get_closest_marker("scenario"), getattr(item, "funcargs", {})
    if call.when == "call" and scenario is not None and "world" in funcargs:
        world: World = funcargs["world"]
        world.failed = call.excinfo is not None
        result = [*scenario.args, funcargs["store"], funcargs["round_"], round(world.recovery_seconds, 2)]
        item.user_properties.append(("scenario", result))


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which other users may enter: PostgreSQL does not run as root."""
    with tempfile.TemporaryDirectory(prefix="cm-faults-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_to_break(short_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(short_folder / "postgres")
    yield server
    server.close()


@pytest.fixture
def world(request: pytest.FixtureRequest, short_folder: Path, store: str, round_: int) -> Iterator[World]:
    """A new world for one scenario."""
    folder = Path(tempfile.mkdtemp(dir=short_folder, prefix="w"))
    broker = Broker(folder / "broker")
    broker.start()
    server: PostgresServer | None = request.getfixturevalue("postgres_to_break") if store == "postgresql" else None
    try:
        world = World(folder, broker, store, server)
        yield world
        if world.failed:
            for log in sorted(folder.glob("worker-*.log")):
                print(f"---- {log.name}\n" + log.read_text(errors="replace")[-4000:])
        world.close()
    finally:
        broker.close()
        if server is not None:
            server.ensure_started()
