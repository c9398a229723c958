"""One set of migrations makes what the code says, on both databases, from nothing and back."""

import pytest
import sqlalchemy as sa
from alembic import command

import migrations
from captioning.errors import CaptioningError
from captioning.store.database import Database


def test_migrations_build_the_schema(db: Database) -> None:
    command.check(migrations.config_for(db))
    assert migrations.current(db) == migrations.head(db)


def test_they_can_be_undone(db: Database) -> None:
    command.downgrade(migrations.config_for(db), "base")
    with db.reading() as connection:
        inspector = sa.inspect(connection)
        assert set(inspector.get_table_names()) <= {"alembic_version"}
        assert inspector.get_view_names() == []
    assert migrations.upgrade(db) == migrations.head(db)


def test_an_empty_database_gets_its_tables_by_itself(url: str) -> None:
    db = Database(url)
    assert migrations.current(db) is None
    migrations.ensure_schema(db)
    migrations.ensure_schema(db)
    assert migrations.current(db) == migrations.head(db)
    db.close()


def test_a_database_from_the_future_is_refused(db: Database) -> None:
    with db.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CaptioningError, match="made by a newer captionmill"):
        migrations.ensure_schema(db)
