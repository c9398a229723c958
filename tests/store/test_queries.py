"""Search, show and export: the same answers on both databases, and the same preferred caption everywhere."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from captioning.errors import UsageError
from captioning.store import captions, details, jobs, search
from captioning.store.database import Database, now
from captioning.store.files import FoundFile
from captioning.store.query import parse
from captioning.store.schema import Caption
from captioning.values import Source
from tests.store.helpers import GRU, LSTM, StoreDriver, captioned, failed

SENTENCES = (
    "two dogs run on the beach",
    "a dog is running through the grass",
    "a man in a red shirt rides a bike",
    "a black and white dog catches a ball",
    "children play at the beach near a man",
    "a girl in front of the_sea's edge",
)
ANSWERS = {
    "dog": [0, 1, 3],
    "DOGS": [0, 1, 3],
    "run": [0, 1],
    "running dogs": [0, 1],
    '"two dogs"': [0],
    '"on the beach"': [0],
    '"the beach on"': [],
    "beach -dog": [4],
    "beach -dogs -man": [],
    '-"white dog" dog': [0, 1],
    "a": [1, 2, 3, 4, 5],
    "the beach": [0, 4],
    "zebra": [],
    "riding": [2],
    "dog OR man": [0, 1, 2, 3, 4],
    "dog or man": [],
    "dog AND run": [0, 1],
    "dog AND NOT ball": [0, 1],
    "(grass OR bike) -dog": [2],
    "beach (dog OR man) NOT near": [0],
    "man OR dog ball": [2, 3, 4],
    "-(dog OR man) a": [5],
    "NOT (beach dog) beach": [4],
    "path:f-3": [3],
    "path:F-3": [3],
    "path:/photos/f-?.jpg dog": [0, 1, 3],
    "path:f-3 OR bike": [2, 3],
    "confidence>=0.6 beach": [0, 4],
    "confidence>60%": [],
    "dog confidence<0.1": [],
    "model:lstm dog -path:f-0": [1, 3],
    "model:gru": [],
    "model:LSTM dog": [0, 1, 3],
    '"dog is: running"': [1],
    'dog "path: "': [],
    "source:machine man": [2, 4],
    "source:human": [],
    "unlike:yes dog": [0, 1, 3],
    "unlike:no": [],
    "before:2001-01-01 dog": [],
    "after:2001-01-01 dog": [0, 1, 3],
    "path:100%": [],
    "NEAR": [4],
    "dog*": [0, 1, 3],
    "red; DROP TABLE captions": [],
    "'red' & !shirt": [2],
    '"red shirt': [2],
    "sea's": [5],
}


@pytest.fixture
def driver(db: Database) -> StoreDriver:
    """A store with one file per sentence, captioned with it."""
    driver = StoreDriver(db)
    driver.submit(len(SENTENCES), "f", chunk_size=10)
    claim = driver.claim()
    outcomes = [captioned(item, sentence) for item, sentence in zip(claim.items, SENTENCES, strict=True)]
    driver.commit_batch(claim, outcomes)
    return driver


@pytest.mark.parametrize("query", ANSWERS)
def test_a_query_finds_the_same_on_both_databases(driver: StoreDriver, query: str) -> None:
    total, rows = search.search(driver.db, query, 100)
    assert sorted(SENTENCES.index(row.caption or "") for row in rows) == ANSWERS[query]
    assert total == len(rows)


@pytest.mark.parametrize("query", ["", "  ", "-dog", "!!!", '""', "-"])
def test_a_query_without_a_word_to_find_is_refused(driver: StoreDriver, query: str) -> None:
    with pytest.raises(UsageError, match="give at least one word"):
        search.search(driver.db, query, 10)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("confidence > 0.5", "'confidence >' has no value; write confidence>0.6, without spaces"),
        ("dog confidence>", "'confidence>' has no value"),
        ("path:", "'path:' has no value; write path:holiday"),
        ("(dog model: lstm)", "'model:' has no value"),
        ("colour:red", "there is no field colour, the fields are path, confidence"),
        ("modle:lstm", "there is no field modle, perhaps you mean model"),
        ("confidence>2", "'2' is no value of confidence, which is a number from 0 to 1"),
    ],
)
def test_a_field_that_cannot_be_meant_is_refused_with_what_to_write(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(query)


def test_only_a_filter_may_say_nothing_but_what_images_should_not_be_like(driver: StoreDriver) -> None:
    with pytest.raises(UsageError, match="it only says what captions should not contain"):
        search.search(driver.db, "-dog", 10)
    rows = captions.export_rows(driver.db, captions.Selection(where="-dog NOT path:f-2"))
    assert [row.path for row in rows] == ["/photos/f-4.jpg", "/photos/f-5.jpg"]


def test_the_limit_shortens_the_answer_but_not_the_total(driver: StoreDriver) -> None:
    total, rows = search.search(driver.db, "dog", 2)
    assert (total, len(rows)) == (3, 2)


def test_matches_are_counted_up_to_a_maximum(driver: StoreDriver) -> None:
    total, rows = search.search(driver.db, "a", 1, max_counted=2)  # five sentences match
    assert (total, len(rows)) == (3, 1)
    total, rows = search.search(driver.db, "a", 5, max_counted=2)
    assert (total, len(rows)) == (5, 5)


def test_the_best_match_comes_first_and_equal_matches_come_by_id(driver: StoreDriver) -> None:
    add(driver, Source.HUMAN, "a dog and a dog and a dog")
    found = [row.path for row in search.search(driver.db, "dog", 10)[1]]
    assert found[0] == "/photos/f-0.jpg"
    assert found == [row.path for row in search.search(driver.db, "dog", 10)[1]]


def test_a_search_uses_the_indexes_and_scans_no_table(driver: StoreDriver) -> None:
    with recorded_statements(driver.db) as statements:
        search.search(driver.db, "dog -ball", 20)
    plan = explain(driver.db, *next(statement for statement in statements if "hits" in statement[0]))
    assert "captions_fts" in plan
    assert "ix_files_image_id" in plan
    assert "SCAN files" not in plan
    assert "Seq Scan on files" not in plan


def test_failures_are_read_with_the_index_of_failed_items(driver: StoreDriver) -> None:
    with recorded_statements(driver.db) as statements:
        assert jobs.reasons(driver.db, 1) == {}
        assert jobs.failures(driver.db, 1) == []
    about_items = [statement for statement in statements if "items" in statement[0]]
    assert len(about_items) >= 2
    for statement in about_items:
        assert "ix_items_failed" in explain(driver.db, *statement)


@contextmanager
def recorded_statements(db: Database) -> Iterator[list[tuple[str, Any]]]:
    """Record the SQL statements that are executed while the context lasts, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def record(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    sa.event.listen(db.engine, "before_cursor_execute", record)
    yield statements
    sa.event.remove(db.engine, "before_cursor_execute", record)


def explain(db: Database, statement: str, parameters: Any) -> str:
    """Return the query plan of a statement."""
    with db.reading() as connection:
        if not db.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # a scan is faster on so small a table
        keyword = "EXPLAIN QUERY PLAN" if db.is_sqlite else "EXPLAIN"
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{keyword} {statement}", parameters))


def add(driver: StoreDriver, source: Source, text: str, model_id: int | None = None) -> None:
    """Add a caption to the first image."""
    with driver.db.writing() as connection:
        first = connection.exec_driver_sql("SELECT min(id) FROM images").scalar_one()
        values = {"image_id": first, "source": source, "text": text, "model_id": model_id, "options_digest": "x"}
        connection.execute(sa.insert(Caption).values(**values, created_at=now()))


def preferred_caption(driver: StoreDriver, model: str | None = None) -> str | None:
    """Return the first image's preferred caption. Fail when export, show, view and search disagree about it."""
    exported = next(captions.export_rows(driver.db, captions.Selection(model=model)))
    if model is None:
        shown = details.show(driver.db, b"/photos/f-0.jpg")
        assert shown is not None
        with driver.db.reading() as connection:
            viewed = connection.exec_driver_sql("SELECT caption FROM caption_export WHERE path = '/photos/f-0.jpg'")
            assert shown[0].caption == shown[1][0].text == viewed.scalar() == exported.caption
        _, found = search.search(driver.db, exported.caption or "", 10)
        assert exported.path in [row.path for row in found]
    return exported.caption


def test_the_preferred_caption_is_human_then_imported_then_of_the_chosen_model(driver: StoreDriver) -> None:
    gru = jobs.register_model(driver.db, GRU, default=LSTM.name)
    assert preferred_caption(driver) == SENTENCES[0]
    add(driver, Source.MACHINE, "by the gru", gru)
    assert preferred_caption(driver) == SENTENCES[0]
    assert preferred_caption(driver, "gru") == "by the gru"
    jobs.register_model(driver.db, GRU, default=GRU.name)
    assert preferred_caption(driver) == "by the gru"
    add(driver, Source.IMPORTED, "imported once")
    assert preferred_caption(driver) == "imported once"
    assert preferred_caption(driver, "lstm") == "imported once"
    add(driver, Source.HUMAN, "written by a person")
    add(driver, Source.HUMAN, "written by a person later")
    assert preferred_caption(driver) == "written by a person later"
    total, _ = search.search(driver.db, "imported", 10)
    assert total == 0  # only preferred captions are found


def test_an_edited_caption_is_found_only_by_its_new_words(driver: StoreDriver) -> None:
    with driver.db.writing() as connection:
        connection.execute(sa.update(Caption).where(Caption.text == SENTENCES[2]).values(text="a zebra"))
    assert search.search(driver.db, "zebra", 10)[0] == 1
    assert search.search(driver.db, "bike", 10)[0] == 0
    with driver.db.writing() as connection:
        connection.execute(sa.delete(Caption).where(Caption.text == "a zebra"))
    assert search.search(driver.db, "zebra", 10)[0] == 0


def test_an_export_has_one_row_per_file_with_its_status(db: Database) -> None:
    driver = StoreDriver(db)
    found = [FoundFile(b"a.jpg", 1, 1), FoundFile(b"b.jpg", 2, 1), FoundFile(b"caf\xe9.jpg", 3, 1)]
    driver.register(driver.open_job(), found)
    claim = driver.claim()
    driver.commit_batch(claim, [captioned(claim.items[0]), failed(claim.items[1])])
    rows = [row.as_export() for row in captions.export_rows(db)]
    assert [row["path"] for row in rows] == ["/photos/a.jpg", "/photos/b.jpg", "/photos/caf%E9.jpg"]
    assert [row["status"] for row in rows] == ["captioned", "failed", "pending"]
    assert [row["error"] for row in rows] == [None, "truncated: cut short", None]
    assert rows[0]["caption"] == "a dog runs"
    assert (rows[0]["width"], rows[0]["height"], rows[0]["model"]) == (640, 480, LSTM.name)
    assert [("path_b64" in row) for row in rows] == [False, False, True]
    assert [row["unlike"] for row in rows] == [True, None, None]
    assert [row.path for row in captions.export_rows(db, captions.Selection(min_confidence=0.5))] == ["/photos/a.jpg"]
    with db.reading() as connection:
        names = ("path", "status", "error", "captioned_at", "unlike")
        view = connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM caption_export ORDER BY path")
        assert [tuple(r) for r in view] == [tuple(r[name] for name in names) for r in rows]


def test_the_files_of_a_folder_are_found_from_within_a_root_and_from_above_it(db: Database) -> None:
    driver = StoreDriver(db, b"/photos")
    paths = [b"top.jpg", b"sea/a.jpg", b"sea/b.jpg", b"sea/deep/c.jpg", b"seaside/d.jpg", b"sea.jpg"]
    driver.register(driver.open_job(), [FoundFile(path, 1, 1) for path in paths])

    def below(folder: bytes, count: int = 10) -> list[str]:
        return [row.path.removeprefix("/photos/") for row in captions.files_below(db, folder, count)]

    assert below(b"/photos/sea") == ["sea/a.jpg", "sea/b.jpg", "sea/deep/c.jpg"]
    assert below(b"/photos/sea/deep") == ["sea/deep/c.jpg"]
    assert len(below(b"/photos")) == len(below(b"/")) == 6
    assert len(below(b"/", 2)) == 2
    assert below(b"/photos/sea/a.jpg") == ["sea/a.jpg"]
    assert below(b"/photos/se") == below(b"/photo") == []
