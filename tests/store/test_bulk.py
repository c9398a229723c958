"""Rows that go to the database many at a time arrive as they are, on both databases."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from captioning.errors import StoreFault, StoreUnavailable
from captioning.store.bulk import insert, insert_new, insert_or_ignore, is_one_of, update_rows
from captioning.store.database import Database
from captioning.store.schema import Caption, Features, File, Image
from tests.store.helpers import StoreDriver

HUGE = 2**62 + 1  # no float is so exact


def image(sha256: str, **values: object) -> dict[str, object]:
    return {"sha256": sha256, "width": 1, "height": 2, "format": 'a "b" \\ ü \U0001f415', "bytes": HUGE} | values


def file(driver: StoreDriver, path: bytes, mtime_ns: int = HUGE) -> dict[str, object]:
    return {"root_id": driver.root_id, "path": repr(path), "path_bytes": path, "path_hash": path, "size": 5,
            "mtime_ns": mtime_ns}  # fmt: skip


@pytest.mark.parametrize("write", [insert, insert_or_ignore])
def test_every_type_of_value_is_read_back_as_it_was_written(db: Database, write: Callable[..., object]) -> None:
    driver = StoreDriver(db)
    alternatives = [{"text": 'a cat\'s "tail" ü', "log_probability": -0.1 - 0.2}]
    with db.writing() as connection:
        write(connection, Image, [image("0" * 64), image("1" * 64)])
        ids = connection.execute(sa.select(Image.id).order_by(Image.sha256)).scalars().all()
        row = {"source": "machine", "model_id": driver.model_id, "options_digest": "", "text": "two\n\tdogs ü",
               "created_at": 1.1, "word_log_probabilities": [-1e-17, -3.0], "alternatives": alternatives}  # fmt: skip
        write(
            connection,
            Caption,
            [row | {"image_id": ids[0], "unlike": True}, row | {"image_id": ids[1], "unlike": None}],
        )
        connection.exec_driver_sql("INSERT INTO encoders (key) VALUES ('e')")
        features = {"encoder_id": 1, "vector": bytes(range(256)), "thumbnail": b"", "sketch": 7}
        write(connection, Features, [features | {"image_id": ids[0]}])
    with db.reading() as connection:
        assert connection.execute(sa.select(Image.format, Image.bytes)).all() == [('a "b" \\ ü \U0001f415', HUGE)] * 2
        columns = (
            Caption.text,
            Caption.created_at,
            Caption.word_log_probabilities,
            Caption.alternatives,
            Caption.unlike,
        )
        both = connection.execute(sa.select(*columns).order_by(Caption.image_id)).all()
        assert both == [("two\n\tdogs ü", 1.1, [-1e-17, -3.0], alternatives, unlike) for unlike in (True, None)]
        assert connection.execute(sa.select(Features.vector, Features.thumbnail)).one() == (bytes(range(256)), b"")


def test_rows_that_exist_already_stay_and_only_new_ones_are_returned(db: Database) -> None:
    with db.writing() as connection:
        insert(connection, Image, [image("0" * 64, width=7)])
        new = insert_or_ignore(connection, Image, [image("0" * 64), image("1" * 64)], Image.sha256)
        assert db.is_sqlite or [row.sha256 for row in new] == ["1" * 64]
        assert connection.execute(sa.select(Image.width).order_by(Image.sha256)).scalars().all() == [7, 1]


def test_an_update_leaves_rows_that_are_not_as_they_were_read(db: Database) -> None:
    driver = StoreDriver(db)
    with db.writing() as connection:
        insert(connection, File, [file(driver, b"a"), file(driver, b"\xff"), file(driver, b"c", HUGE + 1)])
        ids = connection.execute(sa.select(File.id).order_by(File.id)).scalars().all()
        rows = [{"id": i, "read": HUGE, "never": 0, "failed_detail": f"broken {i}"} for i in reversed(ids)]
        update_rows(connection, File, rows, read="mtime_ns", never="ctime_ns")
        details = connection.execute(sa.select(File.failed_detail).order_by(File.id)).scalars().all()
        assert details == [f"broken {ids[0]}", f"broken {ids[1]}", None]
        wanted = is_one_of(connection, File.path_hash, [b"a", b"\xff", b"nothing"])
        assert connection.execute(sa.select(File.id).where(wanted).order_by(File.id)).scalars().all() == ids[:2]


def test_new_rows_get_ids_that_no_row_has(db: Database) -> None:
    with db.writing() as connection:
        insert(connection, Image, [image("0" * 64)])
        ids = insert_new(connection, Image, [image("1" * 64), image("2" * 64)], Image.sha256)
        insert(connection, Image, [image("3" * 64)])
        assert insert_new(connection, Image, [], Image.sha256) == {}
    with db.reading() as connection:
        stored = dict(connection.execute(sa.select(Image.sha256, Image.id)).all())
    assert len(set(stored.values())) == 4
    assert ids == {sha256: stored[sha256] for sha256 in ("1" * 64, "2" * 64)}


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_row_that_somebody_else_has_just_inserted_stays_and_is_not_returned(db: Database) -> None:
    with db.writing() as connection:
        with db.writing() as other:
            insert(other, Image, [image("1" * 64, width=7)])
        ids = insert_new(connection, Image, [image("0" * 64), image("1" * 64)], Image.sha256)
        assert list(ids) == ["0" * 64]
        assert connection.execute(sa.select(Image.width).order_by(Image.sha256)).scalars().all() == [1, 7]


def test_texts_with_signs_of_arrays_and_json_are_found(db: Database) -> None:
    formats = ['a "b"', "{c,d}", "e\\f", "ü\U0001f415", ""]
    with db.writing() as connection:
        insert(connection, Image, [image(str(n), format=text) for n, text in enumerate([*formats, "other"])])
        found = sa.select(Image.format).where(is_one_of(connection, Image.format, formats)).order_by(Image.sha256)
        assert connection.execute(found).scalars().all() == formats
        assert connection.execute(sa.select(Image.id).where(is_one_of(connection, Image.id, []))).all() == []


@pytest.mark.parametrize("write", [insert, insert_or_ignore])
def test_a_value_that_the_database_refuses_is_an_error_of_the_store(db: Database, write: Callable[..., object]) -> None:
    with pytest.raises(StoreFault), db.writing() as connection:
        write(connection, Image, [image("0" * 64, width=None)])
    with db.writing() as connection:
        write(connection, Image, [image("0" * 64)])
        assert connection.execute(sa.select(sa.func.count()).select_from(Image)).scalar_one() == 1


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_connection_that_breaks_during_a_copy_is_replaced(db: Database) -> None:
    with pytest.raises(StoreUnavailable):
        _insert_on_a_connection_that_the_server_ends(db)
    with db.writing() as connection:
        insert(connection, Image, [image("0" * 64)])


def _insert_on_a_connection_that_the_server_ends(db: Database) -> None:
    with db.writing() as connection:
        own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with db.engine.connect() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({own}, 5000)")
        insert(connection, Image, [image("0" * 64)])
