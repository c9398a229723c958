"""Forgetting files and jobs: which rows go, and which captions stay."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from captioning.errors import CaptioningError, LeaseLost, UsageError
from captioning.store import captions, claims, details, forget, jobs, leases
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.outcomes import Content, Outcome
from captioning.values import ItemState, JobState, Source
from tests.store.helpers import StoreDriver, captioned, sha256_of
from tests.support.rows import row_counts


def found(*names: str) -> list[FoundFile]:
    return [FoundFile(name.encode(), 100 + n, 1) for n, name in enumerate(names)]


def forget_path(db: Database, path: str, **options: bool) -> forget.Forgotten:
    return forget.forget(db, replace(forget.scope_of_path(db, path.encode()), **options))


def names(db: Database) -> list[str]:
    return sorted(row.path.removeprefix("/photos/") for row in captions.export_rows(db))


def write_human_caption(db: Database, text: str) -> None:
    """Give every image a caption that a person wrote."""
    with db.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO captions (image_id, source, text, created_at)"
            f" SELECT id, '{Source.HUMAN}', '{text}', 1.0 FROM images"
        )


@pytest.fixture
def driver(db: Database) -> StoreDriver:
    """A store with four captioned files of job 1: two in a folder, and one whose name begins like the folder's."""
    driver = StoreDriver(db)
    job = driver.open_job()
    driver.register(job, found("a.jpg", "sub/b.jpg", "sub/c.jpg", "sub.jpg"))
    for claim in driver.claim_all():
        driver.process_chunk(claim)
    jobs.close_registration(db, job, 0, {})
    return driver


def test_a_folder_is_forgotten_with_what_is_below_it_and_captions_stay(driver: StoreDriver) -> None:
    expected = forget.count(driver.db, forget.scope_of_path(driver.db, b"/photos/sub"))
    done = forget_path(driver.db, "/photos/sub")
    assert (done.files, done.items, done.jobs, done.captions) == (2, 2, 1, 0)
    assert (expected.files, expected.items, expected.jobs, expected.kept_captions) == (2, 2, 1, 2)
    assert names(driver.db) == ["a.jpg", "sub.jpg"]
    assert row_counts(driver.db)["captions"] == 4
    progress = driver.progress(1)
    assert (progress.state, progress.total, progress.captioned) == (JobState.DONE, 2, 2)


def test_a_file_that_is_submitted_again_has_its_old_caption(driver: StoreDriver) -> None:
    forget_path(driver.db, "/photos/a.jpg")
    driver.register(driver.open_job("again"), found("a.jpg"))
    claim = driver.claim()
    content = sha256_of(claim.items[0])
    driver.commit_batch(claim, [captioned(claim.items[0], sha256=content)])
    assert names(driver.db) == ["a.jpg", "sub.jpg", "sub/b.jpg", "sub/c.jpg"]


def test_captions_of_content_that_another_file_has_are_spared(driver: StoreDriver) -> None:
    driver.register(driver.open_job("copy"), found("copy.jpg"))
    claim = driver.claim()
    of_b = next(row.sha256 for row in captions.export_rows(driver.db) if row.path.endswith("b.jpg"))
    driver.commit_batch(claim, [captioned(claim.items[0], sha256=of_b)])
    done = forget_path(driver.db, "/photos/sub", captions=True)
    assert (done.files, done.captions) == (2, 1)
    left = {row.path: row.caption for row in captions.export_rows(driver.db)}
    assert left["/photos/copy.jpg"] == "a dog runs"


def test_captions_that_people_wrote_go_only_on_request(driver: StoreDriver) -> None:
    write_human_caption(driver.db, "my grandmother")
    scope = replace(forget.scope_of_path(driver.db, b"/photos/sub"), captions=True)
    assert forget.count(driver.db, scope) == forget.Forgotten(2, 2, 1, captions=2, kept_captions=2)
    forget.forget(driver.db, scope)
    counts = row_counts(driver.db)
    assert (counts["captions"], counts["images"]) == (2 + 4, 4)
    forget_path(driver.db, "/photos/a.jpg", captions=True, human=True)
    counts = row_counts(driver.db)
    assert (counts["captions"], counts["images"]) == (1 + 3, 3)


def test_a_forgotten_job_takes_the_files_that_no_other_job_lists(driver: StoreDriver) -> None:
    other = driver.open_job("b", force=True)
    driver.register(other, found("a.jpg"), force=True)
    done = forget.forget(driver.db, forget.scope_of_job(driver.db, 1))
    assert (done.files, done.items, done.jobs) == (3, 4, 1)
    assert names(driver.db) == ["a.jpg"]
    with pytest.raises(UsageError, match="there is no job 1"):
        driver.progress(1)
    assert driver.progress(other).total == 1


def test_a_worker_with_a_chunk_of_a_forgotten_job_loses_it_even_if_the_numbers_are_used_again(
    db: Database,
) -> None:
    driver = StoreDriver(db)
    job = driver.submit(4, "a")
    claim = driver.claim()
    forget.forget(db, forget.scope_of_job(db, job))
    assert driver.submit(4, "b") == job + 1  # a number that somebody has noted never means another job
    driver.claim()  # on SQLite this is the same chunk number with the same fence
    with pytest.raises(LeaseLost):
        driver.commit_batch(claim, [captioned(item) for item in claim.items])


def test_a_worker_goes_on_with_the_rest_of_a_chunk_of_which_a_file_is_forgotten(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.open_job()
    driver.register(job, found("a.jpg", "b.jpg"))
    jobs.close_registration(db, job, 0, {})
    claim = driver.claim()
    forget_path(db, "/photos/a.jpg")
    driver.process_chunk(claim)
    progress = driver.progress(job)
    assert (progress.state, progress.total, progress.captioned) == (JobState.DONE, 1, 1)


def test_a_job_with_nothing_left_to_do_is_done(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.open_job()
    driver.register(job, found("a.jpg", "b.jpg"))
    jobs.close_registration(db, job, 0, {})
    forget_path(db, "/photos")
    assert driver.progress(job).state == JobState.DONE
    assert claims.count_claimable(db, [], None, 10) == 0


def test_a_copy_is_not_reused_from_a_caption_that_is_forgotten_meanwhile(driver: StoreDriver) -> None:
    of_b = next(row.sha256 for row in captions.export_rows(driver.db) if row.path.endswith("b.jpg"))
    job = driver.open_job("copy")
    driver.register(job, found("copy.jpg"))
    claim = driver.claim()
    reused = Outcome(claim.items[0], ItemState.REUSED, Content(of_b or "", 1, None))
    forget_path(driver.db, "/photos/sub", captions=True)
    with pytest.raises(CaptioningError, match="removed by `producer forget`"):
        driver.commit_batch(claim, [reused])
    leases.release(driver.db, claim)
    driver.process_chunk(driver.claim())
    assert driver.progress(job).captioned == 1


def test_a_file_that_is_listed_by_a_second_job_meanwhile_stays(driver: StoreDriver) -> None:
    scope = forget.scope_of_job(driver.db, 1)

    def list_again(files: int) -> None:
        driver.register(driver.open_job("b", force=True), found("a.jpg", "sub/b.jpg", "sub/c.jpg"), force=True)

    forget.forget(driver.db, scope, list_again, page_size=1)
    assert len(names(driver.db)) == 3


def test_the_path_as_it_is_named_goes_before_the_one_that_its_links_lead_to(db: Database, tmp_path: Path) -> None:
    driver = StoreDriver(db, os.fsencode(tmp_path))
    driver.register(driver.open_job(), found("new/a.jpg", "album/a.jpg", "b.jpg"))
    (tmp_path / "new").mkdir()
    (tmp_path / "album").symlink_to("new")  # a folder was moved, and a link was left in its place
    (tmp_path / "link.jpg").symlink_to("b.jpg")
    forget_path(db, f"{tmp_path}/album/a.jpg")
    forget_path(db, f"{tmp_path}/link.jpg")
    assert [row.path for row in captions.export_rows(db)] == [f"{tmp_path}/new/a.jpg"]
    assert details.show(db, os.fsencode(tmp_path / "album" / "a.jpg")) is not None  # through the link
    forget_path(db, f"{tmp_path}/album")
    assert list(captions.export_rows(db)) == []


def test_a_path_that_the_store_does_not_know_is_named(driver: StoreDriver) -> None:
    with pytest.raises(UsageError, match="nothing is registered at or below /photos/su"):
        forget.scope_of_path(driver.db, b"/photos/su")


def test_many_files_are_forgotten_page_by_page(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(10)
    pages: list[int] = []
    done = forget.forget(db, forget.scope_of_path(db, b"/photos"), pages.append, page_size=3)
    assert (pages, done.files, done.items) == ([3, 6, 9, 10], 10, 10)
    assert row_counts(db)["items"] == 0
