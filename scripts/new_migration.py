"""Write a migration from the difference between the schema's code and a freshly migrated SQLite database."""

import sys
import tempfile
from pathlib import Path

from alembic import command

import migrations
from captioning.store.database import Database

with tempfile.TemporaryDirectory() as place:
    db = Database(f"sqlite:///{place}/x.sqlite")
    number = int(migrations.upgrade(db)) + 1
    command.revision(migrations.config_for(db), sys.argv[1], autogenerate=True, rev_id=f"{number:04d}")
    print(*sorted(Path(migrations.__file__).parent.glob("versions/*.py"))[-1:])
