"""A new SQLite file in one step: the statements in `new_sqlite.sql` make what all migrations together make.

They are in a file so that the first command in a new data folder need neither import Alembic nor run each migration.
`make docs` writes the file from a migrated database, and a test compares the two.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from captioning.store.database import Database

FILE = Path(__file__).with_name("new_sqlite.sql")
_SHADOW = ("_data", "_idx", "_docsize", "_config")  # tables that FTS5 makes for its own


def create(db: Database) -> bool:
    """Create the tables in an empty SQLite file; return False, and do nothing, if another process was faster."""
    with db.writing() as connection:
        if sa.inspect(connection).get_table_names():
            return False
        for statement in _statements(FILE.read_text()):
            connection.exec_driver_sql(statement)
    return True


def _statements(text: str) -> Iterator[str]:
    """Split a text into statements; those of a trigger are parts of one."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if line.endswith(";\n") and sqlite3.complete_statement(statement):
            yield statement.strip().removesuffix(";")
            statement = ""


def as_text(file: Path) -> str:
    """Return the statements that create a migrated database again, with its rows."""
    connection = sqlite3.connect(file)
    try:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        parts = [row for row in found.fetchall() if not _is_shadow(row[1])]
        rows = [statement for kind, name, _ in parts if kind == "table" for statement in _rows(connection, name)]
    finally:
        connection.close()
    return "".join(f"{statement};\n" for statement in [*(sql for _, _, sql in parts), *rows])


def _is_shadow(name: str) -> bool:
    return "_fts_" in name and name.endswith(_SHADOW)


def _rows(connection: sqlite3.Connection, table: str) -> Iterator[str]:
    if table.endswith("_fts"):  # an index, which is empty
        return
    columns = [f"quote({name})" for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
    for values in connection.execute(f"SELECT {', '.join(columns)} FROM {table}"):  # noqa: S608, our own names
        yield f"INSERT INTO {table} VALUES ({', '.join(values)})"  # noqa: S608
