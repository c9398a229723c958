"""Access to the database: engines, transactions, the database's clock, and which of its errors are temporary."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.functions import FunctionElement

from captioning.errors import CaptioningError, StoreUnavailable, UsageError
from captioning.settings import Settings

BUSY_SECONDS = 30  # that SQLite waits for another writer
CLOCK_STEP_SECONDS = 5.0  # a time further in the future than this shows that the database's clock was set back
_BEGIN = "captionmill_begin"
T = TypeVar("T")


class now(FunctionElement[float]):  # noqa: N801, reads like the SQL function that it is
    """The database's clock: seconds since 1970."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(_element: object, _compiler: object, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(_element: object, _compiler: object, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def insert_or_ignore(connection: Connection, table: type[DeclarativeBase], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows; rows that exist already stay as they are."""
    if rows:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        connection.execute(insert(table).on_conflict_do_nothing(), rows)


class Database:
    """One process's access to the database, with two types of transaction: `reading` and `writing`.

    `retry_seconds` is how long `retry` waits for a database that does not answer.
    """

    def __init__(self, url: str, retry_seconds: float = 30.0) -> None:
        self.engine = make_engine(url)
        self.retry_seconds = retry_seconds

    @classmethod
    def open(cls, settings: Settings) -> "Database":
        """Return the database that the settings name. Nothing is connected yet."""
        return cls(settings.store_url, settings.database_retry_seconds)

    @property
    def is_sqlite(self) -> bool:
        return bool(self.engine.dialect.name == "sqlite")

    @property
    def url(self) -> str:
        """The URL without its password."""
        return str(self.engine.url.render_as_string(hide_password=True))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read-only transaction. Raises StoreUnavailable when the database does not answer."""
        with _translate_errors(self.engine), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that is committed at the end, or rolled back on an exception. Raises StoreUnavailable."""
        with _translate_errors(self.engine), self.engine.connect() as connection:
            connection.info[_BEGIN] = "BEGIN IMMEDIATE"  # SQLite takes the write lock now, not at the first write
            try:
                with connection.begin():
                    yield connection
            finally:
                connection.info.pop(_BEGIN, None)

    def retry(self, transaction: Callable[[], T]) -> T:
        """Run a whole transaction, again with growing pauses while the database does not answer.

        Gives up after `retry_seconds` and raises StoreUnavailable.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StoreUnavailable),
            wait=tenacity.wait_exponential(multiplier=0.1, max=5.0),
            stop=tenacity.stop_before_delay(self.retry_seconds),
            reraise=True,
        )
        return retrying(transaction)

    def close(self) -> None:
        self.engine.dispose()


def make_engine(url: str) -> Engine:
    """Return an engine configured for the store. Raises UsageError for a URL that cannot be used."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(
            "CAPTIONING_DATABASE_URL is not a database URL like postgresql+psycopg://user@host/name."
        ) from None
    try:
        return _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
    except (NoSuchModuleError, ModuleNotFoundError) as missing:
        raise UsageError(f"CAPTIONING_DATABASE_URL: {missing}. Use postgresql+psycopg:// or sqlite:///.") from None


def _sqlite(url: URL) -> Engine:
    if url.query or "\0" in (url.database or ""):
        raise UsageError("CAPTIONING_DATABASE_URL: sqlite:/// takes a path, no options; in it, ? is %3F and % is %25.")
    if url.database and url.database != ":memory:":
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot create the folder of the database {url.database}: {error.strerror}.") from None
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # `_begin` below sends BEGIN
        _open_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.info.get(_BEGIN, "BEGIN"))

    return engine


def _open_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging and read once. SQLite does not wait for another process that does it; we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _postgresql(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise UsageError(f"the store runs on PostgreSQL and SQLite, not on {url.get_backend_name()}.")
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(f"CAPTIONING_DATABASE_URL: write postgresql+psycopg:// for {url.drivername}://.")
    url = url.set(drivername="postgresql+psycopg")
    # Both ends notice a connection that silently drops packets within half a minute: locks of a lost client must not
    # block the others, and a client must not wait for an answer that never comes.
    keep = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    options = "-c lock_timeout=30s -c idle_in_transaction_session_timeout=60s" + "".join(
        f" -c tcp_{name}={value}" for name, value in keep.items()
    )
    keep |= {"tcp_user_timeout": 20_000}  # milliseconds
    connect = {"connect_timeout": 5, "application_name": "captionmill", "options": options}
    _check_options(url)
    return sa.create_engine(url, pool_pre_ping=True, pool_size=3, connect_args=connect | keep)


def _check_options(url: URL) -> None:
    """Raise UsageError when a URL has options that PostgreSQL's client library does not know."""
    import psycopg

    try:
        _, options = url.get_dialect()().create_connect_args(url)
        if "\0" in psycopg.conninfo.make_conninfo(**options):
            raise UsageError("CAPTIONING_DATABASE_URL: PostgreSQL accepts no %00.")
    except (ArgumentError, psycopg.ProgrammingError) as wrong:
        raise UsageError(f"CAPTIONING_DATABASE_URL: {str(wrong).strip()}.") from None


_TEMPORARY_SQLSTATES = ("25006", "40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53", "08")  # prefixes


@contextmanager
def _translate_errors(engine: Engine) -> Iterator[None]:
    """Raise StoreUnavailable for errors that pass by themselves; errors of a wrong statement stay as they are."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise StoreUnavailable(_message(engine, error)) from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or state.startswith(_TEMPORARY_SQLSTATES):
            raise StoreUnavailable(_message(engine, error)) from error
        if isinstance(error.orig, sqlite3.DatabaseError) and not isinstance(error.orig, sqlite3.IntegrityError):
            raise CaptioningError(_message(engine, error, "is damaged: restore a copy, or move it away")) from error
        raise


def _message(engine: Engine, error: DBAPIError, what: str = "does not answer") -> str:
    first = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    return f"the database {engine.url.render_as_string(hide_password=True)} {what}: {first}"
