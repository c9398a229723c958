"""Every error of a database becomes one line with its cause and a remedy; a database that only reads can be read."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

import migrations
from captioning.errors import CaptioningError, StoreFault, StoreRefused, StoreUnavailable, UsageError
from captioning.store import captions, jobs, workers
from captioning.store.database import Database
from captioning.store.schema import Sweep
from tests.store.helpers import StoreDriver
from tests.support.postgres import Postgres


def execute(url: str, *statements: str) -> None:
    """Execute statements, each in a transaction of its own."""
    db = Database(url)
    for statement in statements:
        with db.writing() as connection:
            connection.exec_driver_sql(statement)
    db.close()


@contextmanager
def refused(line: str, error_type: type[CaptioningError]) -> Iterator[None]:
    """Expect an error whose message is one line and matches a pattern."""
    with pytest.raises(error_type, match=line) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert "[SQL" not in str(caught.value)


def test_a_database_that_became_read_only_is_named_as_that(postgres_server: Postgres) -> None:
    url = postgres_server.fresh()
    db = Database(url)
    migrations.upgrade(db)
    execute(url, f"ALTER DATABASE {sa.make_url(url).database} SET default_transaction_read_only = on")
    db.close()
    db = Database(url)
    with refused("is read-only .*Name the primary server in CAPTIONING_DATABASE_URL", StoreUnavailable):
        StoreDriver(db)
    with refused("is read-only", StoreUnavailable):
        workers.try_to_write(db)
    assert jobs.progress(db) == []  # reading goes on
    db.close()


def test_an_attempt_to_write_leaves_the_database_as_it_is(db: Database) -> None:
    with db.reading() as connection:
        before = connection.execute(sa.select(Sweep.next_at)).all()
    workers.try_to_write(db)
    with db.reading() as connection:
        assert connection.execute(sa.select(Sweep.next_at)).all() == before


def test_a_user_who_may_not_create_tables_is_told_to_own_the_database(postgres_server: Postgres) -> None:
    url, user = postgres_server.fresh(), "user_without_rights"
    execute(
        url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", f"DROP ROLE IF EXISTS {user}", f"CREATE ROLE {user} LOGIN"
    )
    db = Database(sa.make_url(url).set(username=user).render_as_string(hide_password=False), retry_seconds=60)
    with refused("does not allow this user to do that: .*ALTER DATABASE name OWNER TO user", StoreRefused):
        db.retry(lambda: migrations.upgrade(db))  # at once: waiting does not help
    db.close()


def test_a_connection_that_was_dropped_while_idle_is_replaced(postgres_server: Postgres) -> None:
    url = postgres_server.fresh()
    db = Database(url)
    migrations.upgrade(db)
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert jobs.progress(db) == []
    db.close()


def test_tables_that_are_gone_are_one_line(db: Database) -> None:
    with db.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE workers RENAME TO others")
    with refused("does not have the tables .*`producer db upgrade`", StoreRefused), db.reading() as connection:
        connection.exec_driver_sql("SELECT * FROM workers")


def test_a_value_that_the_database_rejects_is_one_line_without_the_statement(db: Database) -> None:
    with refused("reports an error: .*CAPTIONING_DEBUG=1", StoreFault), db.writing() as connection:
        connection.exec_driver_sql("INSERT INTO sweeps (id, next_at) VALUES (1, 0)")


# -- SQLite --


def some_captions(folder: Path) -> Path:
    """Create a database with four captions; return its file."""
    db = Database(f"sqlite:///{folder}/captions.sqlite")
    migrations.upgrade(db)
    driver = StoreDriver(db)
    driver.submit(4)
    driver.process_chunk(driver.claim())
    db.close()
    return folder / "captions.sqlite"


@contextmanager
def read_only_copy(folder: Path) -> Iterator[Path]:
    """Mount a copy of a folder read-only, for this process and root too; yield its path."""
    mount = folder.parent / "read-only"
    shutil.copytree(folder, mount)
    for command in (["mount", "--bind", mount, mount], ["mount", "-o", "remount,ro,bind", mount]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
        shutil.rmtree(mount)


def count_captions(file: Path) -> int:
    """Read a database as `producer export` does."""
    db = Database(f"sqlite:///{file}")
    try:
        migrations.refuse_other(db)
        return sum(row.caption is not None for row in captions.export_rows(db))
    finally:
        db.close()


def test_a_database_on_a_read_only_file_system_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    some_captions(folder)
    with read_only_copy(folder) as mount:
        assert count_captions(mount / "captions.sqlite") == 4
        db = Database(f"sqlite:///{mount}/captions.sqlite", retry_seconds=60)
        with refused("is read-only for this user.*CAPTIONING_DATA_DIR", StoreRefused):
            db.retry(lambda: StoreDriver(db))
        db.close()


def test_commits_that_are_only_in_the_write_ahead_log_are_read_there_too(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    writer = Database(f"sqlite:///{some_captions(folder)}")
    driver = StoreDriver(writer)
    with writer.engine.connect():  # an open connection keeps the log
        driver.submit(4, key="more")
        driver.process_chunk(driver.claim())
        with read_only_copy(folder) as mount:
            assert (mount / "captions.sqlite-wal").stat().st_size > 0
            assert count_captions(mount / "captions.sqlite") == 8
    writer.close()


def test_a_write_ahead_log_without_its_index_is_not_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    writer = Database(f"sqlite:///{some_captions(folder)}")
    driver = StoreDriver(writer)
    with writer.engine.connect():
        driver.submit(4, key="more")
        driver.process_chunk(driver.claim())
        backup = tmp_path / "backup"
        shutil.copytree(folder, backup, ignore=shutil.ignore_patterns("*-shm"))
    writer.close()
    with read_only_copy(backup) as mount, refused("newest rows, in captions.sqlite-wal,.* copy both", StoreRefused):
        count_captions(mount / "captions.sqlite")


def test_reading_creates_no_file_and_no_tables(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/none/captions.sqlite")
    with refused("does not exist: run `producer db upgrade`", CaptioningError):
        migrations.refuse_other(db)
    assert list(tmp_path.iterdir()) == []
    db.close()


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    db = Database(f"sqlite:///{tmp_path}/file/captions.sqlite")
    with refused("cannot create the folder of the database", UsageError):
        migrations.upgrade(db)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_named_as_that(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "captions.sqlite").write_bytes(content)
    db = Database(f"sqlite:///{tmp_path}/captions.sqlite")
    with refused("is damaged: .*Restore a copy, or move it away", CaptioningError), db.reading():
        pass
    db.close()
