"""The way to the database: engines, transactions, the database's clock, and what counts as trouble."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from captioning.errors import CaptioningError, StoreUnavailable, UsageError

BUSY_SECONDS = 30
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


class Database:
    """One process's way to the database. `reading` and `writing` are its two kinds of transaction."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises StoreUnavailable when the database is away."""
        with _trouble(self.engine), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes: committed at its end, or not at all. Raises StoreUnavailable."""
        with _trouble(self.engine), self.engine.connect() as connection:
            connection.info[_BEGIN] = "BEGIN IMMEDIATE"  # SQLite: wait for the turn now, not at the first write
            try:
                with connection.begin():
                    yield connection
            finally:
                connection.info.pop(_BEGIN, None)

    def persist(self, act: Callable[[], T], seconds: float) -> T:
        """Do a whole transaction, again with growing pauses while the database is away, for some seconds."""
        deadline, pause = time.monotonic() + seconds, 0.1
        while True:
            try:
                return act()
            except StoreUnavailable:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def close(self) -> None:
        self.engine.dispose()


def make_engine(url: str) -> Engine:
    """Return an engine set up as the store needs it. Raises UsageError for a URL that we can't use."""
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
        except OSError as trouble:
            raise UsageError(f"can't make the folder of the database {url.database}: {trouble.strerror}.") from None
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        _open_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.info.get(_BEGIN, "BEGIN"))

    return engine


def _open_wal(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log and read once. SQLite doesn't wait by itself when another does this just now."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return
        except sqlite3.OperationalError as trouble:
            if "locked" not in str(trouble) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _postgresql(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise UsageError(f"the store runs on PostgreSQL and SQLite, not on {url.get_backend_name()}.")
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(f"CAPTIONING_DATABASE_URL: write postgresql+psycopg:// for {url.drivername}://.")
    url = url.set(drivername="postgresql+psycopg")
    # A link that drops packets without a word is noticed at both ends within half a minute: what a lost client had
    # locked must not hold up the others, and a client must not wait for an answer that never comes.
    keep = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    options = "-c lock_timeout=30s -c idle_in_transaction_session_timeout=60s" + "".join(
        f" -c tcp_{name}={value}" for name, value in keep.items()
    )
    keep |= {"tcp_user_timeout": 20_000}  # milliseconds
    connect = {"connect_timeout": 5, "application_name": "captionmill", "options": options}
    _try_options(url)
    return sa.create_engine(url, pool_pre_ping=True, pool_size=3, connect_args=connect | keep)


def _try_options(url: URL) -> None:
    """Raise UsageError when a URL says what PostgreSQL's client library doesn't know."""
    import psycopg

    try:
        _, options = url.get_dialect()().create_connect_args(url)
        if "\0" in psycopg.conninfo.make_conninfo(**options):
            raise UsageError("CAPTIONING_DATABASE_URL: %00 stands for nothing that PostgreSQL takes.")
    except (ArgumentError, psycopg.ProgrammingError) as wrong:
        raise UsageError(f"CAPTIONING_DATABASE_URL: {str(wrong).strip()}.") from None


_PASSING = (
    "25006",
    "40001",
    "40P01",
    "55P03",
    "57P01",
    "57P02",
    "57P03",
    "53",
    "08",
)  # SQLSTATEs that go away by themselves


@contextmanager
def _trouble(engine: Engine) -> Iterator[None]:
    """Tell a database that is away from a statement that is wrong."""
    try:
        yield
    except (OperationalError, InterfaceError) as trouble:
        raise StoreUnavailable(_said(engine, trouble)) from trouble
    except DBAPIError as trouble:
        state = getattr(trouble.orig, "sqlstate", None) or ""
        if trouble.connection_invalidated or state.startswith(_PASSING):
            raise StoreUnavailable(_said(engine, trouble)) from trouble
        if isinstance(trouble.orig, sqlite3.DatabaseError) and not isinstance(trouble.orig, sqlite3.IntegrityError):
            raise CaptioningError(_said(engine, trouble, "is damaged: restore a copy, or move it away")) from trouble
        raise


def _said(engine: Engine, trouble: DBAPIError, what: str = "doesn't answer") -> str:
    first = str(trouble.orig).strip().splitlines()[0] if str(trouble.orig).strip() else type(trouble.orig).__name__
    return f"the database {engine.url.render_as_string(hide_password=True)} {what}: {first}"
