"""Searching, showing, exporting: the same answers on both databases, and the same caption everywhere."""

import pytest
import sqlalchemy as sa

from captioning.errors import UsageError
from captioning.store import captions, jobs, search
from captioning.store.database import Database, now
from captioning.store.files import FoundFile
from captioning.store.schema import Caption
from captioning.values import Source
from tests.store.helpers import GRU, LSTM, World, captioned, failed

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
    "OR": [],
    "dog OR man": [],
    "NEAR": [4],
    "dog*": [0, 1, 3],
    "red; DROP TABLE captions": [],
    "'red' & !shirt": [2],
    '"red shirt': [2],
    "sea's": [5],
}


@pytest.fixture
def world(db: Database) -> World:
    world = World(db)
    world.submit(len(SENTENCES), "f", chunk=10)
    claim = world.claim()
    assert claim is not None
    world.commit_batch(claim, [captioned(w, s) for w, s in zip(claim.items, SENTENCES, strict=True)])
    return world


@pytest.mark.parametrize("query", ANSWERS)
def test_a_query_finds_the_same_on_both_databases(world: World, query: str) -> None:
    total, rows = search.search(world.db, query, 100)
    assert sorted(SENTENCES.index(row.caption or "") for row in rows) == ANSWERS[query]
    assert total == len(rows)


@pytest.mark.parametrize("query", ["", "  ", "-dog", "!!!", '""', "-"])
def test_a_query_without_a_word_says_so(world: World, query: str) -> None:
    with pytest.raises(UsageError, match="give at least one word"):
        search.search(world.db, query, 10)


def test_a_limit_limits_and_the_total_is_told(world: World) -> None:
    total, rows = search.search(world.db, "dog", 2)
    assert (total, len(rows)) == (3, 2)


def test_of_very_many_no_more_are_counted_than_asked_for(world: World) -> None:
    total, rows = search.search(world.db, "a", 1, counted=2)  # five have it
    assert (total, len(rows)) == (3, 1)
    total, rows = search.search(world.db, "a", 5, counted=2)
    assert (total, len(rows)) == (5, 5)


def test_the_best_come_first_and_among_equals_the_first(world: World) -> None:
    add(world, Source.HUMAN, "a dog and a dog and a dog")
    found = [row.path for row in search.search(world.db, "dog", 10)[1]]
    assert found[0] == "/photos/f-0.jpg"
    assert found == [row.path for row in search.search(world.db, "dog", 10)[1]]


def test_a_search_begins_at_the_index_and_reads_no_table_through(world: World) -> None:
    said: list[tuple[str, object]] = []
    sa.event.listen(world.db.engine, "before_cursor_execute", lambda *words: said.append((words[2], words[3])))
    search.search(world.db, "dog -ball", 20)
    query, values = next((query, values) for query, values in said if "hits" in query)
    with world.db.reading() as connection:
        if world.db.is_sqlite:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()
        else:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of six rows it would rather read all
            rows = connection.exec_driver_sql(f"EXPLAIN {query}", values).all()
    plan = "\n".join(str(row[-1]) for row in rows)
    assert "captions_fts" in plan
    assert "ix_files_image_id" in plan
    assert "SCAN files" not in plan
    assert "Seq Scan on files" not in plan


def add(world: World, source: Source, text: str, model: int | None = None) -> None:
    with world.db.writing() as connection:
        first = connection.exec_driver_sql("SELECT min(id) FROM images").scalar_one()
        values = {"image_id": first, "source": source, "text": text, "model_id": model, "options_digest": "x"}
        connection.execute(sa.insert(Caption).values(**values, created_at=now()))


def preferred_caption_id(world: World, model: str | None = None) -> str | None:
    """The first image's caption by every way to ask; they must agree."""
    exported = next(captions.export_rows(world.db, model=model))
    if model is None:
        shown = captions.show(world.db, b"/photos/f-0.jpg")
        assert shown is not None
        with world.db.reading() as connection:
            viewed = connection.exec_driver_sql(
                "SELECT caption FROM caption_export WHERE path = '/photos/f-0.jpg'"
            ).scalar()
        assert shown[0].caption == shown[1][0].text == viewed == exported.caption
        _, found = search.search(world.db, exported.caption or "", 10)
        assert exported.path in [row.path for row in found]
    return exported.caption


def test_people_come_before_imports_before_the_asked_model_before_others(world: World) -> None:
    gru = jobs.register_model(world.db, GRU, default=LSTM.name)
    assert preferred_caption_id(world) == SENTENCES[0]
    add(world, Source.MACHINE, "by the gru", gru)
    assert preferred_caption_id(world) == SENTENCES[0]
    assert preferred_caption_id(world, "flickr8k-gru") == "by the gru"
    jobs.register_model(world.db, GRU, default=GRU.name)
    assert preferred_caption_id(world) == "by the gru"
    add(world, Source.IMPORTED, "imported once")
    assert preferred_caption_id(world) == "imported once"
    assert preferred_caption_id(world, "flickr8k-lstm") == "imported once"
    add(world, Source.HUMAN, "said by a person")
    add(world, Source.HUMAN, "said by a person later")
    assert preferred_caption_id(world) == "said by a person later"
    total, _ = search.search(world.db, "imported", 10)
    assert total == 0  # a caption that doesn't count isn't found


def test_an_edited_text_is_found_by_its_new_words_only(world: World) -> None:
    with world.db.writing() as connection:
        connection.execute(sa.update(Caption).where(Caption.text == SENTENCES[2]).values(text="a zebra"))
    assert search.search(world.db, "zebra", 10)[0] == 1
    assert search.search(world.db, "bike", 10)[0] == 0
    with world.db.writing() as connection:
        connection.execute(sa.delete(Caption).where(Caption.text == "a zebra"))
    assert search.search(world.db, "zebra", 10)[0] == 0


def test_an_export_has_one_row_a_file_with_its_state(db: Database) -> None:
    world = World(db)
    job = world.job()
    world.register(job, [FoundFile(b"a.jpg", 1, 1), FoundFile(b"b.jpg", 2, 1), FoundFile(b"caf\xe9.jpg", 3, 1)], chunk=3)
    claim = world.claim()
    assert claim is not None
    world.commit_batch(claim, [captioned(claim.items[0]), failed(claim.items[1])])
    rows = [row.as_export() for row in captions.export_rows(db)]
    assert [row["path"] for row in rows] == ["/photos/a.jpg", "/photos/b.jpg", "/photos/caf%E9.jpg"]
    assert [row["status"] for row in rows] == ["captioned", "failed", "pending"]
    assert [row["error"] for row in rows] == [None, "truncated: cut short", None]
    assert rows[0]["caption"] == "a dog runs"
    assert (rows[0]["width"], rows[0]["height"], rows[0]["model"]) == (640, 480, LSTM.name)
    assert [("path_b64" in row) for row in rows] == [False, False, True]
    assert [row.path for row in captions.export_rows(db, min_confidence=0.5)] == ["/photos/a.jpg"]
    with db.reading() as connection:
        view = connection.exec_driver_sql("SELECT path, status, error, captioned_at FROM caption_export ORDER BY path")
        assert [tuple(r) for r in view] == [(r["path"], r["status"], r["error"], r["captioned_at"]) for r in rows]


def test_failures_are_counted_without_reading_what_went_well(world: World) -> None:
    said: list[tuple[str, object]] = []
    sa.event.listen(world.db.engine, "before_cursor_execute", lambda *words: said.append((words[2], words[3])))
    assert jobs.reasons(world.db, 1) == {}
    assert jobs.failures(world.db, 1) == []
    with world.db.reading() as connection:
        if not world.db.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN" if world.db.is_sqlite else "EXPLAIN"
        for query, values in [one for one in said if "items" in one[0]]:
            plan = "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {query}", values))
            assert "ix_items_failed" in plan
