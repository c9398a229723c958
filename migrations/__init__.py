"""How the tables came to be, and the doors to it: upgrade, where we are, and refusing to work on another schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from captioning.errors import CaptioningError
from captioning.store.database import Database


def config_for(db: Database) -> Config:
    """Return an Alembic configuration that works on this database, wherever the package is installed."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database"] = db
    return config


def upgrade(db: Database) -> str:
    """Bring the schema up to date; return its revision. Raises CaptioningError when it comes from the future."""
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
    """Return the revision that the database has; None when it is empty."""
    with db.reading() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def ensure_schema(db: Database) -> None:
    """Make the tables in an empty database; bring our own SQLite file up to date; refuse another schema.

    A shared database that has tables is only ever changed by `producer db upgrade`.
    """
    at = current(db)
    if at is None or (db.is_sqlite and at != head(db) and at in _known(db)):
        upgrade(db)
    else:
        refuse_other(db)


def refuse_other(db: Database) -> None:
    """Raise CaptioningError, with the remedy, unless the schema is the one that this version needs."""
    at, needed = current(db), head(db)
    if at != needed:
        newer = at is not None and at not in _known(db)
        remedy = "it was made by a newer captionmill: upgrade the program" if newer else "run `producer db upgrade`"
        raise CaptioningError(f"the database is at revision {at or 'none'}, this version needs {needed}: {remedy}.")


def _known(db: Database) -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(config_for(db)).walk_revisions()}
