"""Migrations of the database schema: upgrade it, report its revision, and refuse a schema of another version."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from captioning.errors import CaptioningError
from captioning.store.database import Database


def config_for(db: Database) -> Config:
    """Return an Alembic configuration for this database, with the migrations of the installed package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database"] = db
    return config


def upgrade(db: Database) -> str:
    """Upgrade the schema and return its revision. Raises CaptioningError when a newer captionmill created it."""
    if current(db) not in (None, *_known(db)):
        refuse_other(db)
    command.upgrade(config_for(db), "head")
    return head(db)


def head(db: Database) -> str:
    """Return the revision that this version of the code needs."""
    revision = ScriptDirectory.from_config(config_for(db)).get_current_head()
    if revision is None:
        raise CaptioningError("the migrations are not installed with the package. Reinstall captionmill.")
    return revision


def current(db: Database) -> str | None:
    """Return the revision of the database; None when it is empty."""
    with db.reading() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def ensure_schema(db: Database) -> None:
    """Create the tables in an empty database, upgrade a SQLite file, and raise CaptioningError for any other schema.

    The tables of a shared database are changed by `producer db upgrade` only.
    """
    revision = current(db)
    if revision is None or (db.is_sqlite and revision != head(db) and revision in _known(db)):
        upgrade(db)
    else:
        refuse_other(db)


def refuse_other(db: Database) -> None:
    """Raise CaptioningError, with a remedy, unless the schema is the one that this version needs."""
    revision, needed = current(db), head(db)
    if revision == needed:
        return
    newer = revision is not None and revision not in _known(db)
    remedy = "a newer captionmill created it: upgrade the program" if newer else "run `producer db upgrade`"
    raise CaptioningError(f"the database is at revision {revision or 'none'}, this version needs {needed}: {remedy}.")


def _known(db: Database) -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(config_for(db)).walk_revisions()}
