"""What an error of the database means: one line with the cause and a remedy, and whether waiting helps.

The server's own code for an error is not known when it refuses a connection, so the causes are also recognised by
words of its message.
"""

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from captioning.errors import CaptioningError, StoreFault, StoreRefused, StoreUnavailable

_SETTING = "CAPTIONING_DATABASE_URL"


@dataclass(frozen=True)
class _Cause:
    """A kind of error: how the server codes and words it, and the message for a person."""

    codes: tuple[str, ...]  # beginnings of PostgreSQL's SQLSTATEs, or of SQLite's error names
    words: str  # a pattern that the message matches where there is no code
    what: str  # after "the database URL"
    remedy: str
    passes: bool = False  # whether waiting may help


_POSTGRESQL = (
    _Cause(
        (),
        r"unsupported startup parameter|startup parameter.*(options|not (supported|allowed))",
        "is behind a pooler that refuses an option of the connection",
        f"remove `options` from {_SETTING} and PGOPTIONS from the environment",
    ),
    _Cause(
        (),
        r"(SSL|TLS) (connection )?(is )?required$|requires? (SSL|TLS|encryption)|insecure connection",
        "accepts only encrypted connections",
        f"add ?sslmode=require, or better ?sslmode=verify-full&sslrootcert=FILE, to {_SETTING}",
    ),
    _Cause(
        (),
        r"does not support SSL|certificate|SSL error|SSL SYSCALL",
        "cannot be reached with encryption as it is set",
        f"check sslmode and sslrootcert in {_SETTING}, and the server's certificate",
    ),
    _Cause(
        (),
        r"no pg_hba\.conf entry",
        "has no rule that lets this user in from here",
        f"add ?sslmode=require to {_SETTING} if it wants encryption, or a rule for this user to its pg_hba.conf",
    ),
    _Cause(
        ("28",),
        r"authentication failed|password|role .* does not exist|no such user|not permitted to log",
        "refuses the login",
        f"check the user and the password in {_SETTING} or CAPTIONING_DATABASE_PASSWORD_FILE",
    ),
    _Cause(
        ("3D",),
        r"database .* does not exist|no such database",
        "does not exist on this server",
        f"create it, or correct the name in {_SETTING}",
    ),
    _Cause(
        ("53300",),
        r"too many (clients|connections)|connection slots|no more connections|max_client_conn|query_wait_timeout",
        "has no connection left",
        "close other programs, raise its limit, or put a pooler such as PgBouncer before it",
        passes=True,
    ),
    _Cause(
        ("53100",),
        r"No space left on device|disk full",
        "cannot write, its disk is full",
        "free some space on the server",
        passes=True,
    ),
    _Cause(
        ("25006",),
        r"read-only|recovery is in progress",
        "is read-only (a replica, or default_transaction_read_only)",
        f"name the primary server in {_SETTING}",
        passes=True,  # while another server takes over
    ),
    _Cause(
        ("42501", "3F000"),
        r"permission denied|must be owner",
        "does not allow this user to do that",
        "let the user own the database: ALTER DATABASE name OWNER TO user",
    ),
    _Cause(
        ("42P01", "42703", "42704", "42P07", "42710", "42883"),
        r"(?!)",
        "does not have the tables that this version needs",
        f"{_SETTING} should name a database that only captionmill uses; `producer db upgrade` creates its tables",
    ),
)
_SQLITE = (
    _Cause(
        ("SQLITE_FULL",),
        r"No space left|disk is full",
        "cannot be written to, the disk of {folder} is full",
        "free some space",
        passes=True,
    ),
    _Cause(
        ("SQLITE_READONLY",),
        r"readonly",
        "is read-only for this user",
        "use a folder that you can write to, in CAPTIONING_DATA_DIR or " + _SETTING,
    ),
    _Cause(
        ("SQLITE_CANTOPEN",),
        r"unable to open",
        "cannot be opened",
        "is {folder} a folder that you can read and write to?",
    ),
    _Cause(
        ("SQLITE_CORRUPT", "SQLITE_NOTADB"),
        r"malformed|not a database",
        "is damaged",
        "restore a copy, or move it away",
    ),
    _Cause(
        ("SQLITE_IOERR",),
        r"disk I/O error",
        "cannot be read or written",
        "is the disk of {folder} full or failing?",
        passes=True,
    ),
    _Cause(
        ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"),
        r"locked|locking protocol",
        "is locked by another program",
        "close it; {folder} must be on a disk of this machine, not on a network drive",
        passes=True,
    ),
    _Cause(
        (),
        r"no such (table|column)|already exists",
        "does not have the tables that this version needs",
        "`producer db upgrade` creates them; move a file that another program uses away",
    ),
)
_TEMPORARY_SQLSTATES = ("40001", "40P01", "55P03", "57", "58", "53", "08", "23503")
"""Beginnings. 23503: `producer forget` has just removed a row that another one refers to."""


def explain(url: URL, error: DBAPIError) -> CaptioningError:
    """Return the exception for an error: StoreUnavailable when waiting may help, StoreRefused when it does not.

    An error that is neither is a StoreFault: a wrong statement, or a value that the database does not accept.
    """
    is_sqlite = isinstance(error.orig, sqlite3.Error)
    code, message = _code(error), str(error.orig)
    name = url.render_as_string(hide_password=True)
    cause = _cause(_SQLITE if is_sqlite else _POSTGRESQL, code, message)
    if cause is not None:
        folder = Path(url.database or "").parent
        remedy = cause.remedy.format(folder=folder) if is_sqlite else cause.remedy
        what = cause.what.format(folder=folder) if is_sqlite else cause.what
        text = f"the database {name} {what}: {_first_line(error)}. {remedy[0].upper()}{remedy[1:]}{_stop(remedy)}"
        return (StoreUnavailable if cause.passes else StoreRefused)(text)
    if _passes(error, code):
        advice = f"Check that it runs and that {_SETTING} is right."
        return StoreUnavailable(f"the database {name} does not answer: {_first_line(error)}. {advice}")
    return StoreFault(f"the database {name} reports an error: {_first_line(error)}. CAPTIONING_DEBUG=1 shows where.")


def _cause(causes: tuple[_Cause, ...], code: str, message: str) -> _Cause | None:
    if code:
        found = next((cause for cause in causes if cause.codes and code.startswith(cause.codes)), None)
        if found is not None or not code.startswith(("08", "SQLITE_ERROR")):
            return found
    unquoted = re.sub(r'"[^"]*"', '""', message)  # the name of a host or a user says nothing about the cause
    return next((cause for cause in causes if re.search(cause.words, unquoted, re.IGNORECASE | re.MULTILINE)), None)


def _code(error: DBAPIError) -> str:
    """Return the SQLSTATE, or SQLite's name of the error; empty when there is none."""
    return str(getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or "")


def _passes(error: DBAPIError, code: str) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return isinstance(error, OperationalError) and code != "SQLITE_ERROR"
    if error.connection_invalidated or not code:
        return isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return code.startswith(_TEMPORARY_SQLSTATES)


def _first_line(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error.orig).__name__


def _stop(sentence: str) -> str:
    return "" if sentence.endswith("?") else "."
