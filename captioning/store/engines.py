"""Engines: how this process connects to SQLite and to PostgreSQL.

PostgreSQL may stand behind a pooler that gives every transaction another connection and refuses startup options, so
nothing here needs a session. SQLite may be in a folder that this process can only read.
"""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from captioning.errors import StoreRefused, UsageError
from captioning.locks import require_locks
from captioning.store.documents import json_text

BUSY_SECONDS = 30  # that SQLite waits for another writer
BEGIN = "captionmill_begin"  # key of the statement, in `Connection.info`, that begins the next transaction on SQLite
_CACHE_KB = 16_384  # of memory for pages of an SQLite file; each row of a million touches random pages of its indexes
_LOG_PAGES = 10_000  # of 4 KB, which are copied into the file at once: pages that change often are copied less often
_CANNOT_WRITE = ("SQLITE_READONLY", "SQLITE_CANTOPEN")

# A lock of a client that is gone must not block the others for longer than half a minute. The limits belong to a
# transaction, not to a session, and go to the server together with its BEGIN.
_BEGIN_POSTGRESQL = "BEGIN; SET LOCAL lock_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '30s'"


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


# -- SQLite --


def _sqlite(url: URL) -> Engine:
    if url.query or "\0" in (url.database or ""):
        raise UsageError("CAPTIONING_DATABASE_URL: sqlite:/// takes a path, no options; in it, ? is %3F and % is %25.")
    file = Path(url.database or ":memory:")

    def connect() -> sqlite3.Connection:
        if url.database and not file.exists():
            _make_folder(file)
        if url.database:
            require_locks(file.parent)
        try:
            return _connect_to_write(str(file))
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_CANNOT_WRITE) or not file.exists():
                raise
            return _connect_to_read(file)

    engine = sa.create_engine(url, creator=connect, json_serializer=json_text)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.info.get(BEGIN, "BEGIN"))

    return engine


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the folder of the database {file}: {error.strerror}.") from None


def _connect_to_write(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _open_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


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


def _connect_to_read(file: Path) -> sqlite3.Connection:
    """Open a file in a folder that cannot be written to, with whatever its write-ahead log holds.

    To read a log, SQLite wants its index, the -shm file, which it cannot create here. Without a log there is nothing
    to index, and `immutable` makes SQLite not look for one. Raises StoreRefused for a log without an index.
    """
    log = Path(f"{file}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    if has_log and not Path(f"{file}-shm").exists():
        raise StoreRefused(
            f"the database {file} is in a read-only folder, where its newest rows, in {log.name}, cannot be read:"
            " copy both files to a folder that you can write to."
        )
    address = f"file:{quote(os.fsencode(file))}?mode=ro" + ("" if has_log else "&immutable=1")
    connection = sqlite3.connect(address, BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


# -- PostgreSQL --


def _postgresql(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise UsageError(f"the store runs on PostgreSQL and SQLite, not on {url.get_backend_name()}.")
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(f"CAPTIONING_DATABASE_URL: write postgresql+psycopg:// for {url.drivername}://.")
    url = url.set(drivername="postgresql+psycopg")
    _check_options(url)
    connect: dict[str, Any] = {
        "connect_timeout": 5,
        "application_name": "captionmill",
        "prepare_threshold": None,  # a pooler's next connection would not know a prepared statement
        "autocommit": True,  # `_begin` below sends BEGIN
        # This end notices a connection that silently drops packets within half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # milliseconds
    }
    engine = sa.create_engine(url, pool_pre_ping=True, pool_size=3, connect_args=connect, json_serializer=json_text)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(_BEGIN_POSTGRESQL)

    return engine


def _check_options(url: URL) -> None:
    """Raise UsageError when a URL has options that PostgreSQL's client library does not know."""
    import psycopg

    try:
        _, options = url.get_dialect()().create_connect_args(url)
        if "\0" in psycopg.conninfo.make_conninfo(**options):
            raise UsageError("CAPTIONING_DATABASE_URL: PostgreSQL accepts no %00.")
    except (ArgumentError, psycopg.ProgrammingError) as wrong:
        raise UsageError(f"CAPTIONING_DATABASE_URL: {str(wrong).strip()}.") from None
