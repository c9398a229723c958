"""Files listed by a column of their captions, and found by a range of it, whatever the pages in which they are read."""

import pytest
import sqlalchemy as sa

from captioning.store import search
from captioning.store.database import Database
from captioning.store.schema import Caption
from captioning.store.statistics import list_files
from tests.store.helpers import StoreDriver

FILES = 60
WITHDRAWN, WITHOUT_VALUE, WITHOUT_CAPTION = range(0, 20), range(20, 25), range(40, 43)


@pytest.fixture
def listed(db: Database) -> Database:
    """A database with files of which some show no caption, or one without confidence; many confidences are equal."""
    driver = StoreDriver(db)
    driver.submit(FILES - len(WITHOUT_CAPTION), chunk_size=FILES)
    driver.process_chunk(driver.claim())
    driver.submit(len(WITHOUT_CAPTION), key="later")
    with db.writing() as connection:
        for n, caption_id in enumerate(connection.execute(sa.select(Caption.id).order_by(Caption.id)).scalars().all()):
            values = {"confidence": None if n in WITHOUT_VALUE else n * 7 % 10 / 10, "created_at": 100 + n // 8}
            values |= {"withdrawn_at": 1.0} if n in WITHDRAWN else {}
            connection.execute(sa.update(Caption).where(Caption.id == caption_id).values(values))
    return db


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["confidence", "time", "size"])
@pytest.mark.parametrize("limit", [1, 2, 7, FILES + 1])
def test_the_first_files_of_an_order_have_the_first_values(
    listed: Database, sort: str, limit: int, *, descending: bool
) -> None:
    rows = list_files(listed, FILES + 1, sort="path", descending=False, status=None, where="")
    value_of = {"confidence": lambda r: r.confidence, "time": lambda r: r.captioned_at, "size": lambda r: r.size}[sort]
    values = sorted((v for row in rows if (v := value_of(row)) is not None), reverse=descending)
    values += [None] * (len(rows) - len(values))
    found = list_files(listed, limit, sort=sort, descending=descending, status=None, where="")
    assert [value_of(row) for row in found] == values[:limit]
    assert len({row.file_id for row in found}) == min(limit, FILES)
    again = list_files(listed, FILES + 1, sort=sort, descending=descending, status=None, where="")
    assert [row.file_id for row in again][:limit] == [row.file_id for row in found]


@pytest.mark.parametrize("status", ["captioned", "rejected", "pending", "failed", "missing"])
def test_an_order_leaves_out_files_of_another_status(listed: Database, status: str) -> None:
    wanted = list_files(listed, FILES + 1, sort="path", descending=False, status=status, where="")
    found = list_files(listed, FILES + 1, sort="confidence", descending=False, status=status, where="")
    assert {row.file_id for row in found} == {row.file_id for row in wanted}


def test_a_range_finds_the_captions_that_files_show_with_the_highest_first(listed: Database) -> None:
    rows = list_files(listed, FILES + 1, sort="confidence", descending=True, status="captioned", where="")
    wanted = [row.confidence for row in rows if row.confidence is not None and row.confidence >= 0.5]
    total, found = search.search(listed, "confidence>=0.5", FILES)
    assert (total, [row.confidence for row in found]) == (len(wanted), wanted)
    _, best = search.search(listed, "confidence>=0.5", 3, max_counted=3)
    assert [row.confidence for row in best] == wanted[:3]
