"""Migrations of the database schema: upgrade it, report its revision, and refuse a schema of another version."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from captioning.errors import CaptioningError
from captioning.store.database import Database

if TYPE_CHECKING:  # imported where it is needed: that takes a third of the time in which a command starts
    from alembic.config import Config

_VERSION = sa.table("alembic_version", sa.column("version_num"))


def config_for(db: Database) -> "Config":
    """Return an Alembic configuration for this database, with the migrations of the installed package."""
    from alembic.config import Config

    config = Config(stdout=sys.stdout)  # its default is the stream of the moment at which Alembic was imported
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database"] = db
    return config


def upgrade(db: Database) -> str:
    """Upgrade the schema and return its revision. Raises CaptioningError when it does not know the present revision."""
    from alembic import command

    from migrations.comments import write_comments

    if current(db) not in (None, *_revisions()):
        refuse_other(db)
    command.upgrade(config_for(db), "head")
    write_comments(db)
    return head()


def head() -> str:
    """Return the revision that this version of the code needs."""
    revisions = _revisions()
    if not revisions:
        raise CaptioningError("the migrations are not installed with the package. Reinstall captionmill.")
    return revisions[-1]


def current(db: Database) -> str | None:
    """Return the revision of the database; None when it is empty, or a file that does not exist. Writes nothing."""
    if db.is_missing:
        return None
    with db.reading() as connection:
        if not sa.inspect(connection).has_table(_VERSION.name):
            return None
        return connection.execute(sa.select(_VERSION.c.version_num)).scalar_one_or_none()


def ensure_schema(db: Database) -> None:
    """Create the tables in an empty database, upgrade a SQLite file, and raise CaptioningError for any other schema.

    The tables of a shared database are changed by `producer db upgrade` only.
    """
    revision = current(db)
    if revision is None and db.is_sqlite:
        create_sqlite(db)
    elif revision is None or (db.is_sqlite and revision != head() and revision in _revisions()):
        upgrade(db)
    else:
        refuse_other(db)


def create_sqlite(db: Database) -> None:
    """Create the tables in an empty SQLite file."""
    from migrations import new_sqlite

    if not new_sqlite.create(db) and current(db) != head():  # it is not empty: another process may have been faster
        upgrade(db)


def refuse_other(db: Database) -> None:
    """Raise CaptioningError, with a remedy, unless the schema is the one that this version needs. Writes nothing."""
    revision, needed = current(db), head()
    if revision == needed:
        return
    if revision is None:
        state = "does not exist" if db.is_missing else "is empty"
        raise CaptioningError(f"the database {db.url} {state}: run `producer db upgrade`, which creates its tables.")
    if revision in _revisions():
        remedy = "run `producer db upgrade`"
    else:
        remedy = "another version of captionmill created it, probably a newer one: upgrade the program"
    raise CaptioningError(f"the database is at revision {revision}, this version needs {needed}: {remedy}.")


def _revisions() -> list[str]:
    """Return all revisions, oldest first: the numbers with which the names of the migrations begin."""
    return sorted(path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*_*.py"))
