"""Submitting: what is new, what is known, what changed, what has gone."""

import os
from pathlib import Path

from captioning.store import captions, files, jobs, leases
from captioning.store.database import Database
from captioning.store.files import FileIdSet, FoundFile
from captioning.store.leases import Content, Outcome
from captioning.values import ItemState, JobState
from tests.store.helpers import GRU, LSTM, World, captioned, failed
from tests.support.servers import row_counts


def found(count: int, size: int = 100) -> list[FoundFile]:
    return [FoundFile(b"%d.jpg" % i, size + i, 1) for i in range(count)]


def test_resubmitting_an_unfinished_job_adds_nothing(db: Database) -> None:
    world = World(db)
    job = world.submit(10)
    before = row_counts(db)
    again = world.submit(10)
    assert again == job
    assert row_counts(db) == before
    assert world.progress(job).total == 10


def test_a_captioned_file_is_known_and_a_failed_one_is_new_again(db: Database) -> None:
    world = World(db)
    world.register(world.job("a"), found(4))
    claim = world.claim()
    assert claim is not None
    world.commit_batch(claim, [*map(captioned, claim.items[:3]), failed(claim.items[3])])
    second = world.register(world.job("b"), found(4))
    assert (second.known, second.new) == (3, 1)


def test_a_changed_file_is_new_and_forgets_its_content(db: Database) -> None:
    world = World(db)
    world.register(world.job("a"), found(2))
    claim = world.claim()
    assert claim is not None
    world.process_chunk(claim)
    changed = [FoundFile(b"0.jpg", 100, 2), found(2)[1]]
    again = world.register(world.job("b"), changed)
    assert (again.known, again.new) == (1, 1)


def test_force_takes_all_and_stale_takes_what_another_bundle_of_the_name_captioned(db: Database) -> None:
    world = World(db)
    world.register(world.job("a"), found(3))
    claim = world.claim()
    assert claim is not None
    world.process_chunk(claim)
    assert world.register(world.job("b"), found(3), force=True).new == 3
    assert world.register(world.job("c"), found(3), stale=True).known == 3
    other = jobs.register_model(db, GRU, default=LSTM.name)
    terms = files.ReusePolicy(other, LSTM.name, stale=True, force=False)
    assert files.register(db, world.job("d"), world.root, found(3), terms, 4).new == 3


def test_files_of_one_size_share_a_chunk(db: Database) -> None:
    world = World(db)
    sizes = [7, 9, 7, 8, 9, 8]
    world.register(world.job(), [FoundFile(b"%d" % i, size, 1) for i, size in enumerate(sizes)], chunk=2)
    while (claim := world.claim()) is not None:
        assert len({item.size for work in claim.items}) == 1


def test_a_file_that_has_gone_is_missing_until_it_is_back(db: Database, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    world = World(db, folder)
    (tmp_path / "sub").mkdir()
    for i in range(3):
        (tmp_path / f"{i}.jpg").touch()
    registered = world.register(world.job(), found(5))
    seen = FileIdSet()
    for file_id in registered.file_ids[:2]:
        seen.add(file_id)
    assert files.mark_missing(db, folder + b"/sub", seen) == 0
    assert files.mark_missing(db, folder, seen) == 2  # the third wasn't seen but is there
    assert files.mark_missing(db, folder, seen) == 0
    assert len(list(captions.export_rows(db))) == 3
    world.register(world.job(), found(5))
    assert len(list(captions.export_rows(db))) == 5


def test_a_folder_inside_a_root_belongs_to_that_root_and_others_get_their_own(db: Database) -> None:
    world = World(db, b"/photos")
    files.ensure_root(db, b"/photos/2024")
    assert world.root_of(b"/photos/2024") == world.root
    for path in (b"/photos-old", b"/other/photos", b"/"):
        files.ensure_root(db, path)
        assert world.root_of(path) != world.root
    assert world.root_of(b"/photos/x") == world.root
    assert len({root.id for root in files.roots(db)}) == 4


def test_a_job_with_nothing_to_do_is_done_when_it_is_registered(db: Database) -> None:
    world = World(db)
    job = world.job()
    jobs.close_registration(db, job, 7, {"hidden": 2})
    progress = world.progress(job)
    assert progress.state == JobState.DONE
    assert (progress.known, progress.skipped) == (7, {"hidden": 2})


def test_a_path_of_any_bytes_is_kept(db: Database) -> None:
    world = World(db)
    names = [b"caf\xe9.jpg", "café.jpg".encode(), b"new\nline.jpg", b"%E9.jpg", b"x" * 255]
    world.register(world.job(), [FoundFile(name, 5, 1) for name in names], chunk=10)
    claim = world.claim()
    assert claim is not None
    assert sorted(work.path for work in claim.items) == sorted(names)


def test_the_same_submit_again_takes_what_changed_since_and_nothing_else(db: Database) -> None:
    world = World(db)
    job = world.job()
    world.register(job, found(10), chunk=2)
    first, in_hand = world.claim(), world.claim("w2")
    assert first is not None
    assert in_hand is not None
    world.commit_batch(first, [captioned(first.work[0]), failed(first.work[1])])
    leases.complete(db, first)
    changed = [FoundFile(one.path, one.size, 2) if i < 5 else one for i, one in enumerate(found(10))]
    registered = world.register(job, changed, chunk=2)
    assert (registered.new, registered.known) == (0, 0)
    world.commit_batch(in_hand, [captioned(work) for work in in_hand.work])  # of files as they were: too late
    progress = world.progress(job)
    assert (progress.total, progress.done) == (10, 0)
    while (claim := world.claim()) is not None:
        assert all(work.mtime_ns == (2 if int(work.path[:1]) < 5 else 1) for work in claim.items)
        world.process_chunk(claim)
    leases.complete(db, in_hand)
    jobs.close_registration(db, job, 0, {})
    progress = world.progress(job)
    assert (progress.total, progress.captioned, progress.failed, progress.state) == (10, 10, 0, JobState.DONE)
    assert world.register(world.job("another"), changed).known == 10


def test_a_change_that_another_submit_noted_first_is_not_overlooked(db: Database) -> None:
    world = World(db)
    job = world.job()
    world.register(job, found(1))
    claim = world.claim()
    assert claim is not None
    world.commit_batch(claim, [captioned(claim.items[0])])
    changed = [FoundFile(b"0.jpg", 100, 2)]
    world.register(world.job("another", model=jobs.register_model(db, GRU, default=LSTM.name)), changed)
    world.register(job, changed)
    assert world.progress(job).done == 0


def test_a_copy_has_its_caption_when_the_original_changes_while_both_are_in_hand(db: Database) -> None:
    world = World(db)
    job = world.job()
    world.register(job, found(2))
    claim = world.claim()
    assert claim is not None
    original, copy = claim.items
    world.register(job, [FoundFile(original.path, original.size, 2)])  # it moves on to another chunk
    content = Content("f" * 64, copy.size, None)
    world.commit_batch(claim, [captioned(original, content="f" * 64), Outcome(copy, ItemState.REUSED, content)])
    assert row_counts(db)["captions"] == row_counts(db)["images"] == 1
    assert [(row.path, row.caption) for row in captions.samples(db, job, 5)] == [("/photos/1.jpg", "a dog runs")]
