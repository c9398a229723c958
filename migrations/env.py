"""Runs migrations, one process at a time."""

import os

import sqlalchemy as sa
from alembic import context

from captioning.store.database import Database
from captioning.store.schema import Base

_LOCK = 7305118  # any number, the same for all of us


def _is_ours(_object: object, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
    """Leave alone what the models can't say: the search index and its shadow tables."""
    return not (reflected and compare_to is None and kind in ("table", "index") and "_fts" in (name or ""))


def run(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=_is_ours,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


database = context.config.attributes.get("database") or Database(os.environ["CAPTIONING_DATABASE_URL"])
with database.writing() as connection:
    run(connection)
