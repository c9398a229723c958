"""Cells of the fault matrix: the world that each breaks, the databases it breaks it on, and the table they make.

`make test` runs the quick ones; `make faults` runs all, twice, and writes the table to docs/faults.md.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.servers import Broker, PostgresServer
from tests.faults.table import Table
from tests.faults.world import World


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--table") and not hasattr(config, "workerinput"):  # of several processes, the first writes
        config.pluginmanager.register(Table(Path(config.getoption("--table"))))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" not in metafunc.fixturenames:
        return
    stores = metafunc.definition.get_closest_marker("stores")
    metafunc.parametrize("store", stores.args if stores is not None else ("postgresql", "sqlite"))
    metafunc.parametrize("round_", range(metafunc.config.getoption("--rounds")), ids=lambda n: f"round{n + 1}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Tell the table, and the world's end, how the cell went."""
    cell, funcargs = item.get_closest_marker("cell"), getattr(item, "funcargs", {})
    if call.when == "call" and cell is not None and "world" in funcargs:
        world: World = funcargs["world"]
        world.failed = call.excinfo is not None
        said = [*cell.args, funcargs["store"], funcargs["round_"], round(world.recovered_seconds, 2)]
        item.user_properties.append(("cell", said))


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which others may enter: PostgreSQL isn't root."""
    with tempfile.TemporaryDirectory(prefix="cm-faults-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_to_break(place: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(place / "postgres")
    yield server
    server.close()


@pytest.fixture
def world(request: pytest.FixtureRequest, place: Path, store: str, round_: int) -> Iterator[World]:
    """A fresh world for one cell."""
    folder = Path(tempfile.mkdtemp(dir=place, prefix="w"))
    broker = Broker(folder / "broker")
    broker.start()
    server: PostgresServer | None = request.getfixturevalue("postgres_to_break") if store == "postgresql" else None
    try:
        made = World(folder, broker, store, server)
        yield made
        if made.failed:
            for log in sorted(folder.glob("worker-*.log")):
                print(f"---- {log.name}\n" + log.read_text(errors="replace")[-4000:])
        made.close()
    finally:
        broker.close()
        if server is not None:
            server.start_again()
