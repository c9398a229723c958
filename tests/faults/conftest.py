"""Cells of the fault matrix: which run when, on which stores, and the table that they make.

`make test` runs the quick ones; `make faults` runs all, twice, and writes the table to docs/faults.md.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.servers import Broker, PostgresServer
from tests.faults.table import Table
from tests.faults.world import World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" not in metafunc.fixturenames:
        return
    stores = metafunc.definition.get_closest_marker("stores")
    metafunc.parametrize("store", stores.args if stores is not None else ("postgresql", "sqlite"))
    metafunc.parametrize("round_", range(metafunc.config.getoption("--rounds")), ids=lambda n: f"round{n + 1}")


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
    server: PostgresServer | None = None
    if store == "postgresql":
        server = request.getfixturevalue("postgres_to_break")
    made = World(folder, broker, store, server)
    started = time.monotonic()
    yield made
    table: Table | None = request.config.stash.get(TABLE, None)
    cell = request.node.get_closest_marker("cell")
    report = getattr(request.node, "report", None)
    if table is not None and cell is not None:
        green = report is not None and report.passed
        table.add(cell.args[0], cell.args[1], store, round_, green, made.recovered_seconds, time.monotonic() - started)
    if report is not None and report.failed:
        for log in sorted(folder.glob("worker-*.log")):
            print(f"---- {log.name}\n" + log.read_text(errors="replace")[-4000:])
    made.close()
    broker.close()


TABLE: pytest.StashKey[Table] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--table"):
        config.stash[TABLE] = Table(Path(config.getoption("--table")))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call":
        item.report = report  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.stash.get(TABLE, None)
    if table is not None:
        table.write()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(TABLE, None)
    if table is not None:
        terminalreporter.write_line("")
        for line in table.lines():
            terminalreporter.write_line(line)
