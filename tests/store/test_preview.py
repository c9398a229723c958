"""A preview counts what a submit would find to do."""

import pytest

from captioning.store.database import Database
from captioning.store.files import FoundFile, ReusePolicy
from captioning.store.preview import Preview, count_other_options, find_model, preview, sizes_with_captions
from captioning.values import DecodeOptions
from tests.store.helpers import GRU, LSTM, StoreDriver

OPTIONS, OTHERS = DecodeOptions().digest, DecodeOptions(beam_size=5).digest


@pytest.fixture
def driver(db: Database) -> StoreDriver:
    """A store with four captioned files and two that wait."""
    driver = StoreDriver(db)
    driver.submit(4, "done")
    driver.process_chunk(driver.claim())
    driver.submit(2, "waiting")
    return driver


def found(*names: str, size: int = 100) -> list[FoundFile]:
    return [FoundFile(f"/photos/{name}".encode(), size + int(name[-5]), 1) for name in names]


def counts(db: Database, files: list[FoundFile], policy: ReusePolicy, options: str = OPTIONS) -> tuple[int, int, int]:
    total = Preview()
    preview(db, files, policy, options, total)
    assert total.new_sizes.total() == total.new
    return total.new, total.known, total.other_options


def test_files_with_captions_are_known_and_all_others_new(driver: StoreDriver) -> None:
    policy = ReusePolicy(find_model(driver.db, LSTM.digest), LSTM.name, stale=False, force=False)
    names = [*(f"done-{i}.jpg" for i in range(4)), "waiting-0.jpg", "other-0.jpg"]
    assert counts(driver.db, found(*names), policy) == (2, 4, 0)
    elsewhere = [FoundFile(b"/elsewhere/done-0.jpg", 100, 1), FoundFile(b"/photos/done-0.jpg", 100, 2)]
    assert counts(driver.db, elsewhere, policy) == (2, 0, 0)


def test_what_counts_as_known_depends_on_the_request(driver: StoreDriver) -> None:
    files = found("done-0.jpg", "done-1.jpg")
    model_id = find_model(driver.db, LSTM.digest)
    assert counts(driver.db, files, ReusePolicy(model_id, LSTM.name, stale=False, force=True)) == (2, 0, 0)
    assert counts(driver.db, files, ReusePolicy(model_id + 1, LSTM.name, stale=True, force=False)) == (2, 0, 0)
    assert find_model(driver.db, GRU.digest) == 0
    assert counts(driver.db, files, ReusePolicy(0, GRU.name, stale=False, force=False)) == (2, 0, 0)


def test_captions_with_other_options_are_counted(driver: StoreDriver) -> None:
    policy = ReusePolicy(find_model(driver.db, LSTM.digest), LSTM.name, stale=False, force=False)
    assert counts(driver.db, found("done-0.jpg", "done-1.jpg", "new-0.jpg"), policy, OTHERS) == (1, 2, 2)
    assert count_other_options(driver.db, [1, 2, 3, 4, 5], policy, OTHERS) == 4
    assert count_other_options(driver.db, [1, 2, 3, 4, 5], policy, OPTIONS) == 0


def test_a_new_file_may_be_a_copy_of_a_captioned_image_of_the_same_size(driver: StoreDriver) -> None:
    model_id = find_model(driver.db, LSTM.digest)
    assert sizes_with_captions(driver.db, {101, 103, 999}, model_id, OPTIONS) == {101, 103}
    assert sizes_with_captions(driver.db, {101}, model_id, OTHERS) == set()
    assert sizes_with_captions(driver.db, set(), model_id, OPTIONS) == set()
