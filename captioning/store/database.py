"""Access to the database: transactions and the database's clock.

No transaction leaves anything in its session, so that each one may run on another connection of a pooler.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from captioning.errors import StoreRefused, StoreUnavailable
from captioning.settings import Settings
from captioning.store.database_errors import explain
from captioning.store.engines import BEGIN, make_engine

CLOCK_STEP_SECONDS = 5.0  # a time further in the future than this shows that the database's clock was set back
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
    def is_missing(self) -> bool:
        """Whether it is an SQLite file that does not exist. Opening a transaction would create it."""
        file = self.engine.url.database
        if not self.is_sqlite or not file:
            return False
        try:
            os.lstat(file)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # it may exist, in a folder that this user may not enter: opening it reports that
            return False
        return False

    @property
    def folder(self) -> Path | None:
        """The folder of the SQLite file; None for a server."""
        file = self.engine.url.database
        return Path(file).parent if self.is_sqlite and file else None

    @property
    def url(self) -> str:
        """The URL without its password."""
        return str(self.engine.url.render_as_string(hide_password=True))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read-only transaction. Raises StoreUnavailable when the database does not answer."""
        with self._explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that is committed at the end, or rolled back on an exception. Raises StoreUnavailable."""
        with self._explained(), self.engine.connect() as connection:
            connection.info[BEGIN] = "BEGIN IMMEDIATE"  # SQLite takes the write lock now, not at the first write
            try:
                with connection.begin():
                    yield connection
            finally:
                connection.info.pop(BEGIN, None)

    def retry(self, transaction: Callable[[], T]) -> T:
        """Run a whole transaction, again with growing pauses while the database does not answer.

        Gives up after `retry_seconds`, or at once when waiting does not help, and raises StoreUnavailable.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=tenacity.wait_exponential(multiplier=0.1, max=5.0),
            stop=tenacity.stop_before_delay(self.retry_seconds),
            reraise=True,
        )
        return retrying(transaction)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise the error of a database as one of ours: one line with the cause and a remedy."""
        try:
            yield
        except DBAPIError as error:
            raise explain(self.engine.url, error) from error


def _passes(error: BaseException) -> bool:
    return isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused)
