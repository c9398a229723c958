"""Claims: one chunk, one worker; a late one changes nothing; what was committed stays."""

import threading
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

import migrations
from captioning.store import jobs, leases
from captioning.store.database import Database, now
from captioning.store.files import FoundFile
from captioning.store.leases import Content, LeaseLost, Outcome
from captioning.store.schema import Chunk, Sweep
from captioning.values import ChunkState, ItemState, JobState, Reason
from tests.store.helpers import GRU, LSTM, World, captioned, failed, sha
from tests.support.servers import Postgres, row_counts


def test_no_two_workers_ever_hold_one_chunk(db: Database) -> None:
    world = World(db)
    world.submit(120, chunk=4)
    taken: list[int] = []

    def work(name: str) -> None:
        while (claim := world.claim(name)) is not None:
            taken.append(claim.chunk_id)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 30


def test_a_chunk_in_hand_is_claimed_again_only_when_its_lease_has_run_out(db: Database) -> None:
    world = World(db)
    world.submit(4)
    first = world.claim("w1", lease=0.3)
    assert first is not None
    assert world.claim("w2") is None
    time.sleep(0.4)
    second = world.claim("w2")
    assert second is not None
    assert second.chunk_id == first.chunk_id
    assert second.fence == first.fence + 1


def test_a_worker_that_was_overtaken_changes_nothing(db: Database) -> None:
    world = World(db)
    job = world.submit(4)
    slow = world.claim("slow", lease=0.05)
    time.sleep(0.1)
    fast = world.claim("fast")
    assert slow is not None
    assert fast is not None
    for act in (
        lambda: world.commit_batch(slow, [captioned(slow.work[0])]),
        lambda: leases.renew(db, slow, 60),
        lambda: leases.complete(db, slow),
        lambda: leases.release(db, slow),
        lambda: leases.count_attempt(db, slow, slow.work[0]),
    ):
        with pytest.raises(LeaseLost):
            act()
    assert row_counts(db)["captions"] == 0
    world.process_chunk(fast)
    assert world.progress(job).state == JobState.DONE


def test_progress_lengthens_a_lease(db: Database) -> None:
    world = World(db)
    world.submit(4)
    claim = world.claim(lease=0.3)
    assert claim is not None
    world.commit_batch(claim, [captioned(claim.items[0])])
    time.sleep(0.4)
    assert world.claim("w2") is None


def test_who_takes_over_does_only_what_is_left(db: Database) -> None:
    world = World(db)
    job = world.submit(4)
    claim = world.claim()
    assert claim is not None
    world.commit_batch(claim, [captioned(claim.items[0]), failed(claim.items[1])])
    leases.release(db, claim)
    rest = world.claim("w2")
    assert rest is not None
    assert [w.item_id for w in rest.work] == [w.item_id for w in claim.items[2:]]
    world.process_chunk(rest)
    progress = world.progress(job)
    assert (progress.captioned, progress.failed, progress.state) == (3, 1, JobState.DONE)


def test_the_same_caption_twice_is_one_row(db: Database) -> None:
    world = World(db)
    world.submit(2, chunk=1)
    first, second = world.claim(), world.claim()
    assert first is not None
    assert second is not None
    world.commit_batch(first, [captioned(first.work[0], "a dog", content="f" * 64)])
    world.commit_batch(second, [captioned(second.work[0], "a cat", content="f" * 64)])
    assert row_counts(db)["captions"] == row_counts(db)["images"] == 1
    assert leases.captioned_digests(db, second, ["f" * 64, "e" * 64]) == {"f" * 64}


def test_content_captioned_by_another_model_is_not_known(db: Database) -> None:
    world = World(db)
    gru = jobs.register_model(db, GRU, default=LSTM.name)
    world.submit(1, "lstm")
    first = world.claim()
    assert first is not None
    world.commit_batch(first, [captioned(first.work[0])])
    world.submit(1, "gru", model=gru)
    second = world.claim()
    assert second is not None
    assert second.model_digest == GRU.digest
    assert leases.captioned_digests(db, second, [sha(first.work[0])]) == set()


def test_a_job_is_done_with_its_last_chunk_whoever_finishes_it(db: Database) -> None:
    world = World(db)
    job = world.submit(8, chunk=1)
    mine = [world.claim(f"w{i}") for i in range(8)]
    threads = [threading.Thread(target=world.process_chunk, args=(claim,)) for claim in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress = world.progress(job)
    assert (progress.state, progress.captioned, progress.model_runs) == (JobState.DONE, 8, 8)


def test_high_priority_comes_first_and_equals_take_turns(db: Database) -> None:
    world = World(db)
    a, b = world.submit(12, "a"), world.submit(12, "b")
    high = world.submit(4, "high", priority=1)
    order = [claim.job_id for _ in range(5) if (claim := world.claim()) is not None]
    assert order[0] == high
    assert sorted(order[1:3]) == sorted(order[3:5]) == [a, b]


def test_a_job_whose_chunk_took_long_lets_others_have_as_long(db: Database) -> None:
    world = World(db)
    slow, quick = world.submit(40, "slow"), world.submit(40, "quick")
    first = world.claim()
    assert first is not None
    assert first.job_id == slow
    world.process_chunk(replace(first, claimed_at=first.claimed_at - 60))  # it had a worker for a minute
    for _ in range(5):
        claim = world.claim()
        assert claim is not None
        assert claim.job_id == quick
        world.process_chunk(claim)
    with db.writing() as connection:
        connection.exec_driver_sql("UPDATE jobs SET last_claimed_at = last_claimed_at - 61 WHERE name = 'slow'")  # a minute later
    claim = world.claim()
    assert claim is not None
    assert claim.job_id == slow


def test_only_what_a_worker_can_do_is_claimed(db: Database) -> None:
    world = World(db)
    world.submit(4)
    assert leases.claim(db, "w", [GRU.digest], [world.root], 60) is None
    assert leases.claim(db, "w", [LSTM.digest], [world.root + 1], 60) is None
    assert leases.claim(db, "w", [LSTM.digest], [], 60) is None
    assert leases.count_claimable(db, [LSTM.digest], [world.root], 10) == 1
    assert leases.claim(db, "w", [LSTM.digest], [world.root], 60) is not None
    assert leases.count_claimable(db, [LSTM.digest], [world.root], 10) == 0


def test_a_paused_job_waits_and_a_resumed_one_goes_on(db: Database) -> None:
    world = World(db)
    job = world.submit(8)
    held = world.claim()
    assert held is not None
    assert jobs.pause(db, job) == JobState.PAUSED
    assert world.claim() is None
    world.process_chunk(held)  # what is in hand is finished
    assert jobs.resume(db, job) == JobState.ACTIVE
    rest = world.claim()
    assert rest is not None
    world.process_chunk(rest)
    assert world.progress(job).state == JobState.DONE


def test_a_cancelled_job_takes_the_work_out_of_hands(db: Database) -> None:
    world = World(db)
    job = world.submit(8)
    held = world.claim()
    assert held is not None
    assert jobs.cancel(db, job) == JobState.CANCELLED
    with pytest.raises(LeaseLost):
        world.process_chunk(held)
    assert world.claim() is None
    assert jobs.resume(db, job) == JobState.ACTIVE
    assert world.claim() is not None


def test_failed_items_can_be_retried_by_reason(db: Database) -> None:
    world = World(db)
    job = world.submit(4)
    claim = world.claim()
    assert claim is not None
    outcomes = [captioned(claim.items[0]), *(failed(w, Reason.MISSING) for w in claim.items[1:3]), failed(claim.items[3])]
    world.commit_batch(claim, outcomes)
    leases.complete(db, claim)
    assert jobs.reasons(db, job) == {"missing": 2, "truncated": 1}
    assert jobs.retry(db, job, Reason.MISSING, 128) == 2
    progress = world.progress(job)
    assert (progress.total, progress.captioned, progress.failed, progress.state) == (4, 1, 1, JobState.ACTIVE)
    again = world.claim()
    assert again is not None
    assert len(again.work) == 2
    world.process_chunk(again)
    progress = world.progress(job)
    assert (progress.captioned, progress.failed, progress.state) == (3, 1, JobState.DONE)
    assert [f.reason for f in jobs.failures(db, job)] == ["truncated"]


def test_what_a_dead_worker_held_is_given_back(db: Database) -> None:
    world = World(db)
    world.submit(8)
    dead, alive = world.claim("dead"), world.claim("alive")
    assert dead is not None
    assert alive is not None
    assert leases.release_held_by(db, "dead", counts_as_attempt=False) == 1
    with pytest.raises(LeaseLost):
        leases.complete(db, dead)
    leases.renew(db, alive, 60)
    back = world.claim("new")
    assert back is not None
    assert back.chunk_id == dead.chunk_id


def test_a_file_changed_while_in_hand_is_not_tied_to_what_was_read(db: Database) -> None:
    world = World(db)
    job = world.job()
    world.register(job, [FoundFile(b"a.jpg", 5, 1)])
    claim = world.claim()
    assert claim is not None
    world.register(world.job("other"), [FoundFile(b"a.jpg", 6, 2)])
    world.commit_batch(claim, [captioned(claim.items[0])])
    with db.reading() as connection:
        assert connection.exec_driver_sql("SELECT image_id FROM files").scalar_one() is None


def test_one_worker_at_a_time_sweeps(db: Database) -> None:
    assert [workers.take_sweep_turn(db, 60) for _ in range(3)] == [True, False, False]


def test_a_commit_that_is_done_again_counts_once(db: Database) -> None:
    """Who lost the connection during a commit can't know how it ended, and tries again."""
    world = World(db)
    job = world.submit(4)
    claim = world.claim()
    assert claim is not None
    batch = [captioned(claim.items[0]), failed(claim.items[1])]
    world.commit_batch(claim, batch)
    world.commit_batch(claim, batch)
    world.commit_batch(claim, [*batch, captioned(claim.items[2])])
    progress = world.progress(job)
    assert (progress.captioned, progress.failed, progress.model_runs) == (2, 1, 2)


def test_a_chunk_that_rests_lets_others_go_first(db: Database) -> None:
    world = World(db)
    world.submit(8, chunk=4)
    first = world.claim()
    assert first is not None
    leases.release(db, first, backoff_seconds=0.5)
    second = world.claim()
    assert second is not None
    assert second.chunk_id != first.chunk_id
    assert world.claim() is None
    time.sleep(0.6)
    again = world.claim()
    assert again is not None
    assert again.chunk_id == first.chunk_id


def test_a_chunk_that_outlives_its_workers_is_halved_until_what_is_fine_gets_through(db: Database) -> None:
    """Image 5 kills whole workers: it is left alone with its chunk, the other seven are captioned, none fails."""
    world = World(db)
    job = world.submit(8, chunk=8)
    deaths = 0
    while world.progress(job).captioned < 7:
        claim = world.claim("victim")
        if claim is None:
            rested(db)
            continue
        if any(work.path.endswith(b"-5.jpg") for work in claim.items):
            deaths += 1
            assert leases.release_held_by(db, "victim", counts_as_attempt=True) == 1
        else:
            world.process_chunk(claim)
    assert deaths <= 6
    progress = world.progress(job)
    assert (progress.total, progress.captioned, progress.failed, progress.state) == (8, 7, 0, JobState.ACTIVE)
    rested(db)
    last = world.claim("sturdy")
    assert last is not None
    assert [work.path for work in last.work] == [b"k-5.jpg"]
    world.process_chunk(last)
    assert world.progress(job).state == JobState.DONE


def test_a_chunk_rests_longer_after_each_death_and_progress_forgives(db: Database) -> None:
    world = World(db)
    world.submit(2, chunk=2)
    for crashes, rest in enumerate((0, 5, 20)):
        rested(db)
        assert world.claim("w") is not None
        leases.release_held_by(db, "w", counts_as_attempt=True)
        assert lease_left(db, crashes + 1) == pytest.approx(rest, abs=2)
    rested(db)
    claim = world.claim("w")
    assert claim is not None
    world.commit_batch(claim, [captioned(claim.items[0])])
    leases.release_held_by(db, "w", counts_as_attempt=True)
    assert lease_left(db, 1) == pytest.approx(0, abs=2)


def test_a_image_that_takes_workers_down_alone_is_named(db: Database) -> None:
    world = World(db)
    job = world.submit(1)
    for _ in range(jobs.FATAL_ATTEMPTS):
        assert jobs.fatal_images(db, job) == []
        rested(db)
        assert world.claim("w") is not None
        leases.release_held_by(db, "w", counts_as_attempt=True)
    assert jobs.fatal_images(db, job) == [("/photos/k-0.jpg", jobs.FATAL_ATTEMPTS)]


def test_a_commit_that_is_done_again_leaves_alone_what_a_retry_took_meanwhile(db: Database) -> None:
    world = World(db)
    job = world.submit(2)
    claim = world.claim()
    assert claim is not None
    batch = [failed(claim.items[0]), captioned(claim.items[1])]
    world.commit_batch(claim, batch)
    assert jobs.retry(db, job, None, 4) == 1
    world.commit_batch(claim, batch)
    leases.complete(db, claim)
    assert world.progress(job).failed == 0
    again = world.claim()
    assert again is not None
    assert [work.item_id for work in again.work] == [claim.items[0].item_id]


def test_a_copy_may_be_told_of_before_or_after_the_image_that_was_opened(db: Database) -> None:
    world = World(db)
    job = world.submit(4)
    claim = world.claim()
    assert claim is not None
    same = "f" * 64
    copies = [Outcome(w, ItemState.REUSED, Content(same, w.size, None)) for w in (claim.items[0], claim.items[2])]
    world.commit_batch(claim, [copies[0], captioned(claim.items[1], content=same), copies[1]])
    progress = world.progress(job)
    assert (progress.captioned, progress.reused, row_counts(db)["images"]) == (1, 2, 1)


def test_a_submit_ends_a_walk_that_was_cut_off_though_a_younger_job_asks_for_the_same(db: Database) -> None:
    world = World(db)
    cut_off = world.job()
    jobs.cancel(db, cut_off)
    younger = world.submit(4)
    jobs.resume(db, cut_off)
    assert world.submit(4) == cut_off
    assert world.submit(4) == younger
    while (claim := world.claim()) is not None:
        world.process_chunk(claim)
    assert [progress.state for progress in jobs.progress(db)] == [JobState.DONE, JobState.DONE]


def rested(db: Database) -> None:
    """Let the time pass that chunks rest."""
    with db.writing() as connection:
        connection.exec_driver_sql("UPDATE chunks SET lease_until = 0 WHERE state = 'pending'")


def lease_left(db: Database, crashes: int) -> float:
    """Return how long the chunk with so many crashes still rests, in seconds."""
    with db.reading() as connection:
        query = sa.select(Chunk.lease_until - now()).where(Chunk.attempts == attempts)
        return float(connection.execute(query).scalars().one())


def test_what_was_promised_before_the_clock_was_set_back_is_void(db: Database) -> None:
    world = World(db)
    world.submit(8)
    held, given_back = world.claim("w1", lease=30), world.claim("w2")
    assert held is not None
    assert given_back is not None
    leases.release(db, given_back, 15.0)
    assert workers.take_sweep_turn(db, 2.0)
    assert world.claim("w3") is None
    with db.writing() as connection:
        ahead = {"lease_until": Chunk.lease_until + 3600, "leased_at": Chunk.leased_at + 3600}
        connection.execute(sa.update(Chunk).values(**ahead))
        connection.execute(sa.update(Sweep).values(next_at=Sweep.next_at + 3600))
    assert workers.take_sweep_turn(db, 2.0)
    assert {claim.chunk_id for _ in range(2) if (claim := world.claim("w3")) is not None} == {
        held.chunk_id,
        given_back.chunk_id,
    }
    assert world.claim("w4") is None


def test_a_chunk_taken_while_its_job_is_cancelled_is_not_handed_out(postgres_server: Postgres) -> None:
    """On PostgreSQL: SQLite's writers are alone from the start."""
    url = postgres_server.fresh()
    db, slow, other = Database(url), Database(url), Database(url)
    migrations.upgrade(db)
    world = World(db)
    job = world.submit(4)
    half_way, cancelling = threading.Event(), threading.Event()

    @sa.event.listens_for(slow.engine, "after_cursor_execute")
    def _wait_after_taking(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE chunks") and not half_way.is_set():
            half_way.set()
            cancelling.wait(30)

    @sa.event.listens_for(other.engine, "after_cursor_execute")
    def _tell_that_it_is_cancelled(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE chunks"):
            cancelling.set()
            time.sleep(0.3)  # the claim goes on, and meets our lock of the job

    got: list[object] = []
    roots = [world.root]
    claiming = threading.Thread(target=lambda: got.append(leases.claim(slow, "w", [LSTM.digest], roots, 60.0)))
    claiming.start()
    half_way.wait(30)
    jobs.cancel(other, job)
    claiming.join()
    slow.close()
    other.close()
    assert got == [None]
    with db.reading() as connection:
        assert connection.execute(sa.select(Chunk.state)).scalars().all() == [ChunkState.PENDING]
    db.close()


def test_a_chunk_whose_images_are_out_of_sight_goes_to_the_end_of_its_job(db: Database) -> None:
    world = World(db)
    world.submit(12)
    first = world.claim()
    assert first is not None
    leases.release(db, first, defer=True)
    order = [claim.chunk_id for _ in range(3) if (claim := world.claim()) is not None]
    assert order[2] == first.chunk_id
    assert len(set(order)) == 3


def test_why_a_chunk_was_given_back_is_told_until_there_is_progress(db: Database) -> None:
    world = World(db)
    job = world.submit(8)
    for number, claim in enumerate([world.claim(), world.claim()], start=1):
        assert claim is not None
        assert claim.deferrals == 0
        leases.release(db, claim, defer=True, error="the folder is empty")
        assert jobs.last_errors(db, job) == [("the folder is empty", 4 * number)]
    again = world.claim()
    assert again is not None
    assert again.deferrals == 1
    world.commit_batch(again, [captioned(again.work[0])])
    assert jobs.last_errors(db, job) == [("the folder is empty", 4)]
