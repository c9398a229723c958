"""Write a migration from the difference between captioning/store/schema.py and a new, migrated SQLite database."""

import sys
import tempfile
from pathlib import Path

from alembic import command

import migrations
from captioning.store.database import Database

with tempfile.TemporaryDirectory() as folder:
    db = Database(f"sqlite:///{folder}/x.sqlite")
    number = int(migrations.upgrade(db)) + 1
    command.revision(migrations.config_for(db), sys.argv[1], autogenerate=True, rev_id=f"{number:04d}")
    print(*sorted(Path(migrations.__file__).parent.glob("versions/[0-9]*.py"))[-1:])
