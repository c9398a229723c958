"""Migrations build the schema that the code describes, on both databases, and can be undone."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

import migrations
from captioning.errors import CaptioningError
from captioning.store.database import Database
from captioning.store.schema import EXPORT_VIEW, Base
from migrations import new_sqlite


def test_migrations_build_the_schema(db: Database) -> None:
    command.check(migrations.config_for(db))
    assert migrations.current(db) == migrations.head()


def test_migrated_tables_have_their_columns_in_the_order_of_the_code(db: Database) -> None:
    with db.reading() as connection:
        inspector = sa.inspect(connection)
        for table in Base.metadata.sorted_tables:
            migrated = [column["name"] for column in inspector.get_columns(table.name)]
            assert migrated == [column.name for column in table.columns]


def test_the_view_has_the_columns_of_the_code(db: Database) -> None:
    with db.reading() as connection:
        columns = sa.inspect(connection).get_columns(EXPORT_VIEW.name)
    assert [column["name"] for column in columns] == [column.name for column in EXPORT_VIEW.columns]


def test_every_table_and_column_has_a_comment() -> None:
    for table in (*Base.metadata.sorted_tables, EXPORT_VIEW):
        assert table.comment
        assert [column.name for column in table.columns if not column.comment] == []


def test_postgresql_shows_the_comments(db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("SQLite has no comments")
    with db.reading() as connection:
        inspector = sa.inspect(connection)
        for table in (*Base.metadata.sorted_tables, EXPORT_VIEW):
            assert inspector.get_table_comment(table.name)["text"] == table.comment
            shown = {column["name"]: column["comment"] for column in inspector.get_columns(table.name)}
            assert shown == {column.name: column.comment for column in table.columns}


def test_migrations_can_be_undone(db: Database) -> None:
    command.downgrade(migrations.config_for(db), "base")
    with db.reading() as connection:
        inspector = sa.inspect(connection)
        assert set(inspector.get_table_names()) <= {"alembic_version"}
        assert inspector.get_view_names() == []
    assert migrations.upgrade(db) == migrations.head()


def test_an_empty_database_is_migrated_at_first_use(url: str) -> None:
    db = Database(url)
    assert migrations.current(db) is None
    migrations.ensure_schema(db)
    migrations.ensure_schema(db)
    assert migrations.current(db) == migrations.head()
    db.close()


def test_the_name_of_a_migration_begins_with_its_revision(db: Database) -> None:
    """`migrations.head` relies on it, so that most commands need not import Alembic."""
    scripts = ScriptDirectory.from_config(migrations.config_for(db))
    assert scripts.get_current_head() == migrations.head()
    for script in scripts.walk_revisions():
        assert Path(script.path).name.startswith(f"{script.revision}_")


def test_the_schema_of_a_newer_version_is_refused(db: Database) -> None:
    with db.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CaptioningError, match="another version of captionmill created it"):
        migrations.ensure_schema(db)


def test_a_new_sqlite_file_is_what_the_migrations_make(tmp_path: Path) -> None:
    """`make docs` writes `migrations/new_sqlite.sql` again after a new migration."""
    created, migrated = tmp_path / "created.sqlite", tmp_path / "migrated.sqlite"
    for file, make in ((created, migrations.ensure_schema), (migrated, migrations.upgrade)):
        with closing(Database(f"sqlite:///{file}")) as db:
            make(db)
            assert migrations.current(db) == migrations.head()
            if file == created:
                command.check(migrations.config_for(db))
    assert new_sqlite.as_text(created) == new_sqlite.as_text(migrated) == new_sqlite.FILE.read_text()


def test_processes_that_create_a_sqlite_file_at_once_both_find_its_tables(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        databases = [Database(f"sqlite:///{tmp_path}/x.sqlite") for _ in range(4)]
        list(pool.map(migrations.ensure_schema, databases))
        for db in databases:
            assert migrations.current(db) == migrations.head()
            db.close()
