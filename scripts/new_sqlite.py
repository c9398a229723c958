"""Write `migrations/new_sqlite.sql`, the statements that create a new SQLite file, from a migrated one."""

import tempfile
from contextlib import closing
from pathlib import Path

import migrations
from captioning.store.database import Database
from migrations.new_sqlite import FILE, as_text


def migrated() -> str:
    """Return the statements that make what all migrations make."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "captions.sqlite"
        with closing(Database(f"sqlite:///{file}")) as db:
            migrations.upgrade(db)
        return as_text(file)


if __name__ == "__main__":
    FILE.write_text(migrated(), encoding="utf-8")
