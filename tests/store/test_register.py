"""Registering files: new, known, changed and missing ones."""

import os
import tempfile

from captioning.mounts import Mounts
from captioning.store import captions, files, jobs, leases
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.outcomes import Content, Outcome
from captioning.values import ItemState, JobState
from tests.store.helpers import GRU, LSTM, StoreDriver, captioned, failed
from tests.support.rows import row_counts

MOUNT = Mounts().of_nearest(os.fsencode(tempfile.gettempdir()))


def found_files(count: int) -> list[FoundFile]:
    return [FoundFile(b"%d.jpg" % i, 100 + i, 1, ctime_ns=1, mount=MOUNT) for i in range(count)]


def test_resubmitting_an_unfinished_job_adds_nothing(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(10)
    before = row_counts(db)
    assert driver.submit(10) == job
    assert row_counts(db) == before
    assert driver.progress(job).total == 10


def test_another_job_knows_captioned_files_and_does_not_try_failed_ones_again(db: Database) -> None:
    driver = StoreDriver(db)
    driver.register(driver.open_job("a"), found_files(4))
    claim = driver.claim()
    driver.commit_batch(claim, [*map(captioned, claim.items[:3]), failed(claim.items[3])])
    registered = driver.register(driver.open_job("b"), found_files(4))
    assert (registered.known, registered.new, registered.failed_before) == (3, 0, 1)


def test_a_changed_file_is_new_again(db: Database) -> None:
    driver = StoreDriver(db)
    driver.register(driver.open_job("a"), found_files(2))
    driver.process_chunk(driver.claim())
    changed = [FoundFile(b"0.jpg", 100, 2), found_files(2)[1]]
    registered = driver.register(driver.open_job("b"), changed)
    assert (registered.known, registered.new) == (1, 1)


def test_force_takes_every_file_and_stale_takes_files_captioned_by_another_bundle_of_the_name(db: Database) -> None:
    driver = StoreDriver(db)
    driver.register(driver.open_job("a"), found_files(3))
    driver.process_chunk(driver.claim())
    assert driver.register(driver.open_job("b"), found_files(3), force=True).new == 3
    assert driver.register(driver.open_job("c"), found_files(3), stale=True).known == 3
    other = jobs.register_model(db, GRU, default=LSTM.name)
    policy = files.ReusePolicy(other, LSTM.name, stale=True, force=False)
    assert files.register(db, driver.open_job("d"), driver.root_id, found_files(3), policy, 4).new == 3


def test_files_of_one_size_share_a_chunk(db: Database) -> None:
    driver = StoreDriver(db)
    sizes = [7, 9, 7, 8, 9, 8]
    driver.register(driver.open_job(), [FoundFile(b"%d" % i, size, 1) for i, size in enumerate(sizes)], chunk_size=2)
    for claim in driver.claim_all():
        assert len({item.size for item in claim.items}) == 1


def test_a_folder_below_a_root_belongs_to_it_and_other_folders_become_roots(db: Database) -> None:
    driver = StoreDriver(db, b"/photos")
    files.ensure_root(db, b"/photos/2024")
    assert driver.find_root(b"/photos/2024") == driver.root_id
    for path in (b"/photos-old", b"/other/photos", b"/"):
        files.ensure_root(db, path)
        assert driver.find_root(path) != driver.root_id
    assert driver.find_root(b"/photos/x") == driver.root_id
    assert len({root.id for root in files.roots(db)}) == 4


def test_a_job_without_new_files_is_done_when_its_registration_is_closed(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.open_job()
    jobs.close_registration(db, job, 7, {"hidden": 2})
    progress = driver.progress(job)
    assert progress.state == JobState.DONE
    assert (progress.known, progress.skipped) == (7, {"hidden": 2})


def test_a_path_of_any_bytes_is_stored_exactly(db: Database) -> None:
    driver = StoreDriver(db)
    names = [b"caf\xe9.jpg", "café.jpg".encode(), b"new\nline.jpg", b"%E9.jpg", b"x" * 255]
    driver.register(driver.open_job(), [FoundFile(name, 5, 1) for name in names], chunk_size=10)
    assert sorted(item.path for item in driver.claim().items) == sorted(names)


def test_resubmitting_a_job_queues_only_the_files_that_changed(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.open_job()
    driver.register(job, found_files(10), chunk_size=2)
    finished, running = driver.claim("w1"), driver.claim("w2")
    driver.commit_batch(finished, [captioned(finished.items[0]), failed(finished.items[1])])
    leases.complete(db, finished)
    changed = [FoundFile(f.path, f.size, 2) if i < 5 else f for i, f in enumerate(found_files(10))]
    registered = driver.register(job, changed, chunk_size=2)
    assert (registered.new, registered.known) == (0, 0)
    driver.commit_batch(running, [captioned(item) for item in running.items])  # too late: both files changed
    progress = driver.progress(job)
    assert (progress.total, progress.done) == (10, 0)
    for claim in driver.claim_all():
        assert all(item.mtime_ns == (2 if int(item.path[:1]) < 5 else 1) for item in claim.items)
        driver.process_chunk(claim)
    leases.complete(db, running)
    jobs.close_registration(db, job, 0, {})
    progress = driver.progress(job)
    assert (progress.total, progress.captioned, progress.failed, progress.state) == (10, 10, 0, JobState.DONE)
    assert driver.register(driver.open_job("another"), changed).known == 10


def test_a_change_that_another_job_registered_first_is_noticed(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.open_job()
    driver.register(job, found_files(1))
    claim = driver.claim()
    driver.commit_batch(claim, [captioned(claim.items[0])])
    changed = [FoundFile(b"0.jpg", 100, 2)]
    gru = jobs.register_model(db, GRU, default=LSTM.name)
    driver.register(driver.open_job("another", model_id=gru), changed)
    driver.register(job, changed)
    assert driver.progress(job).done == 0


def test_a_copy_keeps_its_caption_when_the_original_changes_before_the_commit(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.open_job()
    driver.register(job, found_files(2))
    claim = driver.claim()
    original, copy = claim.items
    driver.register(job, [FoundFile(original.path, original.size, 2)])  # its item moves to another chunk
    content = Content("f" * 64, copy.size, None)
    driver.commit_batch(claim, [captioned(original, sha256="f" * 64), Outcome(copy, ItemState.REUSED, content)])
    assert row_counts(db)["captions"] == row_counts(db)["images"] == 1
    assert [(row.path, row.caption) for row in captions.samples(db, job, 5)] == [("/photos/1.jpg", "a dog runs")]
