"""Alembic runs this module for every command: it migrates the database, one process at a time."""

import warnings

import sqlalchemy as sa
from alembic import context

from captioning.settings import read_settings
from captioning.store.database import Database
from captioning.store.schema import NOT_CHECKED_BY_POSTGRESQL, Base

_LOCK = 7305118  # an arbitrary number; every process that migrates takes the advisory lock with this number


def _is_compared(_object: object, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
    """Return whether Alembic compares an object.

    The models cannot describe the search index and its shadow tables, and have keys that PostgreSQL does not check.
    """
    if kind == "foreign_key_constraint":
        return name not in NOT_CHECKED_BY_POSTGRESQL
    return not (reflected and compare_to is None and kind in ("table", "index") and "_fts" in (name or ""))


def run(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=_is_compared,
        render_as_batch=False,  # a batch operation rebuilds the table on SQLite, which the view caption_export prevents
    )
    with context.begin_transaction(), warnings.catch_warnings():
        # SQLAlchemy cannot read such an index from SQLite, and Alembic then does not compare it
        warnings.filterwarnings("ignore", message=".*expression-based index")
        context.run_migrations()


database = context.config.attributes.get("database") or Database.open(read_settings())
with database.writing() as connection:
    run(connection)
