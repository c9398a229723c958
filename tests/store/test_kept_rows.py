"""A row to which others refer cannot be removed, whether a foreign key or a trigger keeps it."""

import pytest
import sqlalchemy as sa

from captioning.errors import CaptioningError
from captioning.store.bulk import insert
from captioning.store.database import Database
from captioning.store.schema import NOT_CHECKED_BY_POSTGRESQL, Base, Features
from tests.store.helpers import StoreDriver

_PARENTS = ("roots", "mounts", "models", "encoders", "images", "jobs", "chunks", "files", "captions")


@pytest.fixture
def full(db: Database) -> Database:
    """A database in which something refers to a row of each of these tables."""
    driver = StoreDriver(db)
    driver.submit(1)
    driver.process_chunk(driver.claim())
    with db.writing() as connection:
        connection.exec_driver_sql("INSERT INTO mounts (identity) VALUES ('disk')")
        connection.exec_driver_sql("UPDATE files SET mount_id = 1")
        connection.exec_driver_sql("INSERT INTO encoders (key) VALUES ('e')")
        row = {"image_id": 1, "encoder_id": 1, "vector": b"", "thumbnail": b"", "sketch": 1}
        insert(connection, Features, [row])
        connection.exec_driver_sql("INSERT INTO attention (caption_id, weights) VALUES (1, '')")
    return db


@pytest.mark.parametrize("table", _PARENTS)
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET id = id + 1000"])
def test_a_row_to_which_others_refer_stays(full: Database, table: str, change: str) -> None:
    with full.reading() as connection:
        before = connection.execute(sa.text(f"SELECT id FROM {table}")).scalars().all()
    with pytest.raises(CaptioningError), full.writing() as connection:
        connection.exec_driver_sql(change.format(table))
    with full.reading() as connection:
        assert connection.execute(sa.text(f"SELECT id FROM {table}")).scalars().all() == before


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_only_named_keys_are_no_constraints(db: Database) -> None:
    tables = Base.metadata.sorted_tables
    with db.reading() as connection:
        inspector = sa.inspect(connection)
        checked = {key["name"] for table in tables for key in inspector.get_foreign_keys(table.name)}
    assert {
        key.name for table in tables for key in table.foreign_key_constraints
    } - checked == NOT_CHECKED_BY_POSTGRESQL
