"""What a person wrote is shown, follows its file, has a history, and can be taken back."""

from dataclasses import replace

import pytest

from captioning.errors import CaptionChanged, UsageError
from captioning.store import captions, details, edits, history, search
from captioning.store.database import Database
from captioning.store.edits import NewText
from captioning.store.files import FoundFile, find_file
from captioning.store.outcomes import Outcome
from captioning.values import ImageInfo
from tests.store.helpers import StoreDriver, captioned

A, B = b"/photos/f-0.jpg", b"/photos/f-1.jpg"


@pytest.fixture
def driver(db: Database) -> StoreDriver:
    """A store with three captioned files."""
    driver = StoreDriver(db)
    driver.submit(3, "f", chunk_size=10)
    driver.process_chunk(driver.claim(), "a dog runs in a park")
    return driver


def shown(driver: StoreDriver, path: bytes = A) -> captions.FileRow:
    found = details.show(driver.db, path)
    assert found is not None
    return found[0]


def id_of(driver: StoreDriver, path: bytes = A) -> int:
    file_id = find_file(driver.db, path)
    assert file_id is not None
    return file_id


def change_content(driver: StoreDriver, sha256: str, pixels: str | None, key: str = "again") -> None:
    """Register the first file with a new time, and let a worker caption what it has now."""
    job = driver.open_job(key)
    driver.register(job, [FoundFile(b"f-0.jpg", 100, hash(key) & 0xFFFFFF)], 10)
    claim = driver.claim()
    outcomes = [with_pixels(captioned(item, "a cat sits", sha256), pixels) for item in claim.items]
    driver.commit_batch(claim, outcomes)


def with_pixels(outcome: Outcome, pixels: str | None) -> Outcome:
    assert outcome.content is not None
    return replace(outcome, content=replace(outcome.content, info=ImageInfo(640, 480, "JPEG", pixels)))


def test_a_correction_is_shown_and_found_instead_of_what_the_model_wrote(driver: StoreDriver) -> None:
    edited = edits.correct(driver.db, id_of(driver), "Rex chases a ball")
    before, after = edited.before, edited.after
    assert (before.caption, before.source) == ("a dog runs in a park", "machine")
    assert (after.caption, after.source, after.confidence, after.model) == ("Rex chases a ball", "human", None, None)
    assert shown(driver) == after
    assert shown(driver, B).caption == "a dog runs in a park"
    assert [row.path for row in search.search(driver.db, "rex", 9)[1]] == ["/photos/f-0.jpg"]
    assert len(search.search(driver.db, "park", 9)[1]) == 2


def test_a_correction_is_that_of_copies_too_until_they_have_their_own(driver: StoreDriver) -> None:
    job = driver.open_job("copy")
    driver.register(job, [FoundFile(b"copy.jpg", 100, 1)], 10)
    claim = driver.claim()
    driver.commit_batch(claim, [captioned(item, "x", f"{id_of(driver):064x}") for item in claim.items])
    edits.correct(driver.db, id_of(driver), "Rex")
    assert shown(driver, b"/photos/copy.jpg").caption == "Rex"
    edits.correct(driver.db, id_of(driver, b"/photos/copy.jpg"), "Max")
    assert shown(driver, b"/photos/copy.jpg").caption == "Max"
    assert shown(driver).caption == "Rex"


def test_a_correction_follows_its_file_to_new_content_and_is_marked_until_somebody_accepts_it(
    driver: StoreDriver,
) -> None:
    edits.correct(driver.db, id_of(driver), "Rex")
    change_content(driver, "b" * 64, "2:new")
    row = shown(driver)
    assert (row.caption, row.image_changed) == ("Rex", True)
    (edited,) = edits.accept(driver.db, [id_of(driver)])
    after = edited.after
    assert (after.caption, after.image_changed) == ("Rex", False)
    change_content(driver, "c" * 64, "2:newer", "third")
    assert shown(driver).image_changed


def test_where_a_correction_does_not_fit_any_more_the_other_captions_are_as_they_were(driver: StoreDriver) -> None:
    edits.correct(driver.db, id_of(driver), "Rex")
    fitting = captions.Selection(fitting=True)
    texts = [row.caption for row in captions.export_rows(driver.db, fitting)]
    assert texts == ["Rex", "a dog runs in a park", "a dog runs in a park"]
    change_content(driver, "b" * 64, "2:new")
    texts = [row.caption for row in captions.export_rows(driver.db, fitting)]
    assert texts == ["a cat sits", "a dog runs in a park", "a dog runs in a park"]


def test_an_edit_of_metadata_leaves_a_correction_as_it_is(driver: StoreDriver) -> None:
    change_content(driver, "b" * 64, "2:same")
    edits.correct(driver.db, id_of(driver), "Rex")
    change_content(driver, "c" * 64, "2:same", "third")
    row = shown(driver)
    assert (row.caption, row.image_changed) == ("Rex", False)


def test_a_correction_of_a_copy_follows_it_when_its_content_changes(driver: StoreDriver) -> None:
    job = driver.open_job("copy")
    driver.register(job, [FoundFile(b"copy.jpg", 100, 1)], 10)
    claim = driver.claim()
    driver.commit_batch(claim, [captioned(item, "x", f"{id_of(driver):064x}") for item in claim.items])
    edits.correct(driver.db, id_of(driver, b"/photos/copy.jpg"), "Rex")
    assert shown(driver).caption == "Rex"
    change_content(driver, "b" * 64, "2:new")
    row = shown(driver)
    assert (row.caption, row.image_changed) == ("Rex", True)
    assert shown(driver, b"/photos/copy.jpg").image_changed is False
    assert history.undo(driver.db).restored == 2
    assert (shown(driver).caption, shown(driver, b"/photos/copy.jpg").caption) == ("a cat sits", "a dog runs in a park")


def test_an_undo_takes_the_last_change_back_and_then_the_one_before_it(driver: StoreDriver) -> None:
    edits.correct(driver.db, id_of(driver), "Rex")
    edits.correct(driver.db, id_of(driver), "Rex runs")
    assert history.undo(driver.db).restored == 1
    assert shown(driver).caption == "Rex"
    history.undo(driver.db)
    assert shown(driver).caption == "a dog runs in a park"
    with pytest.raises(UsageError, match="there is nothing to undo"):
        history.undo(driver.db)
    verbs = [
        (entry.verb, entry.before, entry.after, entry.undone) for entry in history.history(driver.db, id_of(driver))
    ]
    assert verbs == [
        ("undo", "Rex", "a dog runs in a park", False),
        ("undo", "Rex runs", "Rex", False),
        ("correct", "Rex", "Rex runs", True),
        ("correct", "a dog runs in a park", "Rex", True),
    ]


def test_replaced_words_keep_source_and_model_and_an_undo_puts_them_back(driver: StoreDriver) -> None:
    row = shown(driver)
    rewrite(driver, "a dog runs in a park", "a puppy runs in a park")
    assert shown(driver) == replace(row, caption="a puppy runs in a park", edited=True)
    assert len(search.search(driver.db, "puppy", 9)[1]) == 3
    assert history.undo(driver.db).restored == 3
    assert shown(driver) == row


def test_an_undo_leaves_what_somebody_has_changed_since(driver: StoreDriver) -> None:
    rewrite(driver, "a dog runs in a park", "a puppy runs in a park")
    rewrite(driver, "a puppy runs in a park", "a puppy runs", [id_of(driver)])
    undone = history.undo(driver.db, 1)
    assert (undone.restored, undone.kept) == (2, 1)
    assert shown(driver).caption == "a puppy runs"
    assert history.undo(driver.db).restored == 1
    assert (shown(driver).caption, shown(driver).edited) == ("a puppy runs in a park", True)
    with pytest.raises(UsageError, match="change 1 is undone already"):
        history.undo(driver.db, 1)


def rewrite(driver: StoreDriver, before: str, after: str, file_ids: list[int] | None = None) -> None:
    """Rewrite the captions of files."""
    with driver.db.writing() as connection:
        change = edits.begin_change(connection, "replace", {})
        rows = connection.execute(captions.select_file_rows(None)).all()
        chosen = [row for row in rows if file_ids is None or row.file_id in file_ids]
        texts = [NewText(row.caption_id, row.file_id, before, after) for row in chosen]
        assert edits.rewrite(connection, change, texts) == len(texts)


def test_an_image_that_is_decorative_has_an_empty_caption_of_a_person(driver: StoreDriver) -> None:
    after = edits.correct(driver.db, id_of(driver), "").after
    assert (after.caption, after.source, after.status) == ("", "human", "captioned")


def test_a_file_that_nobody_has_read_cannot_be_corrected_yet(driver: StoreDriver) -> None:
    driver.submit(1, "new")
    with pytest.raises(UsageError, match=r"/photos/new-0\.jpg is not captioned yet: run `producer submit` first"):
        edits.correct(driver.db, id_of(driver, b"/photos/new-0.jpg"), "Rex")


@pytest.mark.parametrize(
    ("text", "message"), [("x" * 20_001, "20001 characters"), ("a\0b", "NUL"), ("\udce4", "UTF-8")]
)
def test_a_caption_that_cannot_be_stored_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edits.checked_text(text)


def test_all_captions_of_a_file_are_shown_with_what_the_model_wrote(driver: StoreDriver) -> None:
    rewrite(driver, "a dog runs in a park", "a puppy runs in a park")
    edits.correct(driver.db, id_of(driver), "Rex")
    found = details.show(driver.db, A)
    assert found is not None
    assert [(c.text, c.original, c.words) for c in found[1]] == [
        ("Rex", None, []),
        ("a puppy runs in a park", "a dog runs in a park", []),
    ]


def test_a_rejected_caption_is_not_shown_found_or_made_again_until_an_undo(driver: StoreDriver) -> None:
    (edited,) = edits.reject(driver.db, [id_of(driver)])
    assert (edited.before.caption, edited.after.caption) == ("a dog runs in a park", None)
    assert shown(driver).status == "rejected"
    assert [row.path for row in search.search(driver.db, "dog", 9)[1]] == ["/photos/f-1.jpg", "/photos/f-2.jpg"]
    job = driver.open_job("again")
    driver.register(job, [FoundFile(b"f-0.jpg", 100, 1)], 10)
    assert driver.try_claim() is None
    assert history.undo(driver.db).restored == 1
    assert (shown(driver).caption, shown(driver).status) == ("a dog runs in a park", "captioned")


def test_after_a_rejected_caption_of_a_person_that_of_the_model_is_shown(driver: StoreDriver) -> None:
    edits.correct(driver.db, id_of(driver), "Rex")
    edits.reject(driver.db, [id_of(driver)])
    assert (shown(driver).caption, shown(driver).source) == ("a dog runs in a park", "machine")
    edits.reject(driver.db, [id_of(driver)])
    with pytest.raises(UsageError, match=r"f-0\.jpg has no caption to reject: what the model wrote was rejected"):
        edits.reject(driver.db, [id_of(driver)])
    for _ in range(2):
        history.undo(driver.db)
    assert shown(driver).caption == "Rex"


def test_an_edit_of_a_caption_that_somebody_has_changed_meanwhile_is_refused(driver: StoreDriver) -> None:
    seen = shown(driver).version
    edits.correct(driver.db, id_of(driver), "Rex", seen)
    for late in (
        lambda: edits.correct(driver.db, id_of(driver), "Max", seen),
        lambda: edits.accept(driver.db, [id_of(driver)], seen),
        lambda: edits.reject(driver.db, [id_of(driver)], seen),
    ):
        with pytest.raises(CaptionChanged, match="was changed meanwhile"):
            late()
    assert shown(driver).caption == "Rex"
    edits.correct(driver.db, id_of(driver), "Max", shown(driver).version)
    assert shown(driver).caption == "Max"
