"""The SQL on the page about Python and SQL runs, on SQLite and on PostgreSQL, and so does what it says of roles."""

import re

import pytest
import sqlalchemy as sa

from captioning.store.database import Database
from tests.docs.pages import PROJECT
from tests.store.helpers import StoreDriver

pytestmark = pytest.mark.processes

PAGE = (PROJECT / "docs/how-to/python.md").read_text()
QUERIES = [
    query.strip()
    for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for query in block.split(";")
    if query.strip().startswith("SELECT")
]


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_runs_on_both_databases(db: Database, query: str) -> None:
    driver = StoreDriver(db)
    driver.submit(2, "f", chunk_size=10)
    driver.process_chunk(driver.claim(), "a dog runs")
    with db.reading() as connection:
        rows = connection.execute(sa.text(query)).all()
    expected = {"confidence > 0.5": 2, "GROUP BY model": 1, "image_changed OR edited": 0}
    assert len(rows) == next(number for words, number in expected.items() if words in query)


def test_the_time_of_a_caption_is_a_time_in_postgresql_and_text_in_sqlite(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(1, "f")
    driver.process_chunk(driver.claim())
    with db.reading() as connection:
        row = connection.exec_driver_sql("SELECT captioned_at, written_at, job FROM caption_export").one()
    assert isinstance(row.captioned_at, str)
    assert row.written_at == row.captioned_at if db.is_sqlite else row.written_at.tzinfo is not None
    assert row.job == 1


def test_readers_may_read_the_view_and_nothing_else(db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("SQLite has no roles")
    with db.writing() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE captionmill_reader")
        assert connection.exec_driver_sql("SELECT count(*) FROM caption_export").scalar_one() == 0
    with db.engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE captionmill_reader")
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql("SELECT count(*) FROM captions")


def test_values_that_cannot_be_are_refused_by_postgresql(db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("SQLite adds no CHECK to a table that exists")
    driver = StoreDriver(db)
    driver.submit(1, "f")
    driver.process_chunk(driver.claim())
    for change in ("confidence = 1.5", "source = 'robot'", "source = 'human'"):
        with pytest.raises(sa.exc.IntegrityError), db.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE captions SET {change}")
