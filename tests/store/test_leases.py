"""Leases: one worker per chunk; a worker that lost its lease changes nothing; committed results stay."""

import threading
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

import migrations
from captioning.errors import LeaseLost
from captioning.store import claims, jobs, leases, results, workers
from captioning.store.claims import Claim
from captioning.store.database import Database, now
from captioning.store.files import FoundFile
from captioning.store.outcomes import Content, Outcome
from captioning.store.schema import Chunk, Job, Sweep
from captioning.values import ChunkState, ItemState, JobState, Reason
from tests.store.helpers import GRU, LSTM, StoreDriver, captioned, failed, sha256_of
from tests.support.postgres import Postgres
from tests.support.rows import row_counts


def end_backoffs(db: Database) -> None:
    """Make all pending chunks claimable, as if their backoff had passed."""
    with db.writing() as connection:
        connection.execute(sa.update(Chunk).where(Chunk.state == ChunkState.PENDING).values(lease_until=0))


def expire_leases(db: Database) -> None:
    """Make all running chunks claimable, as if the time of their leases had passed."""
    with db.writing() as connection:
        connection.execute(sa.update(Chunk).where(Chunk.state == ChunkState.RUNNING).values(lease_until=0))


def backoff_left(db: Database, attempts: int) -> float:
    """Return the rest of the backoff, in seconds, of the chunk with this number of attempts."""
    with db.reading() as connection:
        query = sa.select(Chunk.lease_until - now()).where(Chunk.attempts == attempts)
        return float(connection.execute(query).scalar_one())


# -- claiming --


def test_two_workers_never_claim_the_same_chunk(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(120, chunk_size=4)
    claimed: list[int] = []

    def claim_all(worker: str) -> None:
        claimed.extend(claim.chunk_id for claim in driver.claim_all(worker))

    threads = [threading.Thread(target=claim_all, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 30


def test_a_claimed_chunk_can_be_claimed_again_only_after_its_lease_expired(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(4)
    first = driver.claim("w1", lease_seconds=60)
    assert driver.try_claim("w2") is None
    expire_leases(db)
    second = driver.claim("w2")
    assert second.chunk_id == first.chunk_id
    assert second.fence == first.fence + 1


def test_a_worker_claims_only_chunks_of_its_models_and_roots(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(4)
    assert claims.claim(db, "w", [GRU.digest], [driver.root_id], 60) is None
    assert claims.claim(db, "w", [LSTM.digest], [driver.root_id + 1], 60) is None
    assert claims.claim(db, "w", [LSTM.digest], [], 60) is None
    assert claims.count_claimable(db, [LSTM.digest], [driver.root_id], 10) == 1
    assert claims.claim(db, "w", [LSTM.digest], [driver.root_id], 60) is not None
    assert claims.count_claimable(db, [LSTM.digest], [driver.root_id], 10) == 0


def test_jobs_of_high_priority_come_first_and_jobs_of_equal_priority_take_turns(db: Database) -> None:
    driver = StoreDriver(db)
    first, second = driver.submit(12, "a"), driver.submit(12, "b")
    urgent = driver.submit(4, "high", priority=1)
    order = [driver.claim().job_id for _ in range(5)]
    assert order[0] == urgent
    assert sorted(order[1:3]) == sorted(order[3:5]) == [first, second]


def test_after_a_slow_chunk_other_jobs_are_served_for_as_long_as_it_took(db: Database) -> None:
    driver = StoreDriver(db)
    slow, quick = driver.submit(40, "slow"), driver.submit(40, "quick")
    claim = driver.claim()
    assert claim.job_id == slow
    driver.process_chunk(replace(claim, claimed_at=claim.claimed_at - 60))  # as if it had taken a minute
    for _ in range(5):
        claim = driver.claim()
        assert claim.job_id == quick
        driver.process_chunk(claim)
    with db.writing() as connection:  # as if two minutes had passed, so that a slow machine changes nothing
        connection.execute(sa.update(Job).where(Job.id == slow).values(last_claimed_at=Job.last_claimed_at - 120))
    assert driver.claim().job_id == slow


def test_a_chunk_of_a_job_that_is_cancelled_during_the_claim_is_not_handed_out(postgres_server: Postgres) -> None:
    """Only on PostgreSQL: on SQLite, writing transactions do not overlap."""
    url = postgres_server.fresh()
    db, claiming_db, cancelling_db = Database(url), Database(url), Database(url)
    migrations.upgrade(db)
    driver = StoreDriver(db)
    job = driver.submit(4)
    chunk_updated, cancel_started = threading.Event(), threading.Event()

    @sa.event.listens_for(claiming_db.engine, "after_cursor_execute")
    def _wait_for_the_cancel(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE chunks") and not chunk_updated.is_set():
            chunk_updated.set()
            cancel_started.wait(30)

    @sa.event.listens_for(cancelling_db.engine, "after_cursor_execute")
    def _let_the_claim_continue(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE chunks"):
            cancel_started.set()
            time.sleep(0.3)  # the claim continues meanwhile and waits for the lock on the job's row

    claimed: list[Claim | None] = []
    roots = [driver.root_id]
    claiming = threading.Thread(target=lambda: claimed.append(claims.claim(claiming_db, "w", [LSTM.digest], roots, 60)))
    claiming.start()
    chunk_updated.wait(30)
    jobs.cancel(cancelling_db, job)
    claiming.join()
    claiming_db.close()
    cancelling_db.close()
    assert claimed == [None]
    with db.reading() as connection:
        assert connection.execute(sa.select(Chunk.state)).scalars().all() == [ChunkState.PENDING]
    db.close()


# -- losing and renewing a lease --


def test_a_worker_that_lost_its_lease_changes_nothing(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(4)
    slow = driver.claim("slow")
    expire_leases(db)
    fast = driver.claim("fast")
    for write in (
        lambda: driver.commit_batch(slow, [captioned(slow.items[0])]),
        lambda: leases.renew(db, slow, 60),
        lambda: leases.complete(db, slow),
        lambda: leases.release(db, slow),
        lambda: leases.count_attempt(db, slow, slow.items[0]),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert row_counts(db)["captions"] == 0
    driver.process_chunk(fast)
    assert driver.progress(job).state == JobState.DONE


def test_a_commit_extends_the_lease(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(4)
    claim = driver.claim(lease_seconds=0.3)
    driver.commit_batch(claim, [captioned(claim.items[0])])
    time.sleep(0.4)
    assert driver.try_claim("w2") is None


def test_the_next_worker_gets_only_the_pending_items(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(4)
    claim = driver.claim()
    driver.commit_batch(claim, [captioned(claim.items[0]), failed(claim.items[1])])
    leases.release(db, claim)
    rest = driver.claim("w2")
    assert [item.item_id for item in rest.items] == [item.item_id for item in claim.items[2:]]
    driver.process_chunk(rest)
    progress = driver.progress(job)
    assert (progress.captioned, progress.failed, progress.state) == (3, 1, JobState.DONE)


def test_chunks_of_a_dead_worker_are_released(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(8)
    dead, alive = driver.claim("dead"), driver.claim("alive")
    assert leases.release_held_by(db, "dead", counts_as_attempt=False) == 1
    with pytest.raises(LeaseLost):
        leases.complete(db, dead)
    leases.renew(db, alive, 60)
    assert driver.claim("new").chunk_id == dead.chunk_id


def test_times_from_before_the_clock_was_set_back_are_void(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(8)
    held, released = driver.claim("w1", lease_seconds=30), driver.claim("w2")
    leases.release(db, released, 15.0)
    assert workers.take_sweep_turn(db, 2.0)
    assert driver.try_claim("w3") is None
    with db.writing() as connection:  # as if the clock had been set back by an hour
        ahead = {"lease_until": Chunk.lease_until + 3600, "leased_at": Chunk.leased_at + 3600}
        connection.execute(sa.update(Chunk).values(**ahead))
        connection.execute(sa.update(Sweep).values(next_at=Sweep.next_at + 3600))
    assert workers.take_sweep_turn(db, 2.0)
    assert {driver.claim("w3").chunk_id for _ in range(2)} == {held.chunk_id, released.chunk_id}
    assert driver.try_claim("w4") is None


def test_one_worker_at_a_time_gets_the_turn_to_sweep(db: Database) -> None:
    assert [workers.take_sweep_turn(db, 60) for _ in range(3)] == [True, False, False]


# -- committing --


def test_equal_content_is_stored_with_one_caption(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2, chunk_size=1)
    first, second = driver.claim(), driver.claim()
    driver.commit_batch(first, [captioned(first.items[0], "a dog", sha256="f" * 64)])
    driver.commit_batch(second, [captioned(second.items[0], "a cat", sha256="f" * 64)])
    assert row_counts(db)["captions"] == row_counts(db)["images"] == 1
    assert results.captioned_digests(db, second, ["f" * 64, "e" * 64]) == {"f" * 64}


def test_a_caption_by_another_model_does_not_count(db: Database) -> None:
    driver = StoreDriver(db)
    gru = jobs.register_model(db, GRU, default=LSTM.name)
    driver.submit(1, "lstm")
    first = driver.claim()
    driver.commit_batch(first, [captioned(first.items[0])])
    driver.submit(1, "gru", model_id=gru)
    second = driver.claim()
    assert second.model_digest == GRU.digest
    assert results.captioned_digests(db, second, [sha256_of(first.items[0])]) == set()


def test_a_repeated_commit_counts_once(db: Database) -> None:
    """A worker that loses the connection during a commit cannot know how it ended, and repeats it."""
    driver = StoreDriver(db)
    job = driver.submit(4)
    claim = driver.claim()
    batch = [captioned(claim.items[0]), failed(claim.items[1])]
    driver.commit_batch(claim, batch)
    driver.commit_batch(claim, batch)
    driver.commit_batch(claim, [*batch, captioned(claim.items[2])])
    progress = driver.progress(job)
    assert (progress.captioned, progress.failed, progress.model_runs) == (2, 1, 2)


def test_a_repeated_commit_skips_an_item_that_was_retried_in_between(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(2)
    claim = driver.claim()
    batch = [failed(claim.items[0]), captioned(claim.items[1])]
    driver.commit_batch(claim, batch)
    assert jobs.retry(db, job, None, 4) == 1
    driver.commit_batch(claim, batch)
    leases.complete(db, claim)
    assert driver.progress(job).failed == 0
    assert [item.item_id for item in driver.claim().items] == [claim.items[0].item_id]


def test_copies_may_come_before_and_after_the_image_that_was_decoded(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(4)
    claim = driver.claim()
    sha256 = "f" * 64
    before, original, after = claim.items[:3]
    copies = [Outcome(item, ItemState.REUSED, Content(sha256, item.size, None)) for item in (before, after)]
    driver.commit_batch(claim, [copies[0], captioned(original, sha256=sha256), copies[1]])
    progress = driver.progress(job)
    assert (progress.captioned, progress.reused, row_counts(db)["images"]) == (1, 2, 1)


def test_a_file_that_changed_after_the_claim_is_not_linked_to_its_old_content(db: Database) -> None:
    driver = StoreDriver(db)
    driver.register(driver.open_job(), [FoundFile(b"a.jpg", 5, 1)])
    claim = driver.claim()
    driver.register(driver.open_job("other"), [FoundFile(b"a.jpg", 6, 2)])
    driver.commit_batch(claim, [captioned(claim.items[0])])
    with db.reading() as connection:
        assert connection.exec_driver_sql("SELECT image_id FROM files").scalar_one() is None


def test_a_job_is_done_after_its_last_chunk_whichever_worker_completes_it(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(8, chunk_size=1)
    claimed = [driver.claim(f"w{i}") for i in range(8)]
    threads = [threading.Thread(target=driver.process_chunk, args=(claim,)) for claim in claimed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress = driver.progress(job)
    assert (progress.state, progress.captioned, progress.model_runs) == (JobState.DONE, 8, 8)


# -- releasing, backoff and splitting --


def test_a_chunk_in_backoff_lets_other_chunks_go_first(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(8, chunk_size=4)
    first = driver.claim()
    leases.release(db, first, backoff_seconds=60)
    assert driver.claim().chunk_id != first.chunk_id
    assert driver.try_claim() is None
    end_backoffs(db)
    assert driver.claim().chunk_id == first.chunk_id


def test_the_backoff_grows_with_each_death_and_ends_with_progress(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(2, chunk_size=2)
    for deaths, expected_seconds in enumerate((0, 5, 20)):
        end_backoffs(db)
        driver.claim("w")
        leases.release_held_by(db, "w", counts_as_attempt=True)
        assert backoff_left(db, attempts=deaths + 1) == pytest.approx(expected_seconds, abs=2)
    end_backoffs(db)
    claim = driver.claim("w")
    driver.commit_batch(claim, [captioned(claim.items[0])])
    leases.release_held_by(db, "w", counts_as_attempt=True)
    assert backoff_left(db, attempts=1) == pytest.approx(0, abs=2)


def test_a_chunk_that_outlives_workers_is_split_until_the_good_images_are_captioned(db: Database) -> None:
    """Image 5 kills every worker: it ends up alone in a chunk, the other seven are captioned, and none fails."""
    driver = StoreDriver(db)
    job = driver.submit(8, chunk_size=8)
    deaths = 0
    while driver.progress(job).captioned < 7:
        claim = driver.try_claim("victim")
        if claim is None:
            end_backoffs(db)
        elif any(item.path.endswith(b"-5.jpg") for item in claim.items):
            deaths += 1
            assert leases.release_held_by(db, "victim", counts_as_attempt=True) == 1
        else:
            driver.process_chunk(claim)
    assert deaths <= 6
    progress = driver.progress(job)
    assert (progress.total, progress.captioned, progress.failed, progress.state) == (8, 7, 0, JobState.ACTIVE)
    end_backoffs(db)
    last = driver.claim("survivor")
    assert [item.path for item in last.items] == [b"k-5.jpg"]
    driver.process_chunk(last)
    assert driver.progress(job).state == JobState.DONE


def test_an_image_that_kills_workers_while_alone_in_its_chunk_is_reported(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(1)
    for _ in range(jobs.FATAL_ATTEMPTS):
        assert jobs.fatal_images(db, job) == []
        end_backoffs(db)
        driver.claim("w")
        leases.release_held_by(db, "w", counts_as_attempt=True)
    assert jobs.fatal_images(db, job) == [("/photos/k-0.jpg", jobs.FATAL_ATTEMPTS)]


def test_a_deferred_chunk_goes_to_the_end_of_its_job(db: Database) -> None:
    driver = StoreDriver(db)
    driver.submit(12)
    first = driver.claim()
    leases.release(db, first, defer=True)
    order = [driver.claim().chunk_id for _ in range(3)]
    assert order[2] == first.chunk_id
    assert len(set(order)) == 3


def test_the_error_of_a_released_chunk_is_reported_until_there_is_progress(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(8)
    for number, claim in enumerate([driver.claim(), driver.claim()], start=1):
        assert claim.deferrals == 0
        leases.release(db, claim, defer=True, error="the folder is empty")
        assert jobs.last_errors(db, job) == [("the folder is empty", 4 * number)]
    again = driver.claim()
    assert again.deferrals == 1
    driver.commit_batch(again, [captioned(again.items[0])])
    assert jobs.last_errors(db, job) == [("the folder is empty", 4)]


# -- pausing, cancelling and retrying a job --


def test_chunks_of_a_paused_job_are_not_claimed_until_it_is_resumed(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(8)
    held = driver.claim()
    assert jobs.pause(db, job) == JobState.PAUSED
    assert driver.try_claim() is None
    driver.process_chunk(held)  # a chunk that was claimed before the pause is finished
    assert jobs.resume(db, job) == JobState.ACTIVE
    driver.process_chunk(driver.claim())
    assert driver.progress(job).state == JobState.DONE


def test_cancelling_a_job_revokes_the_leases_of_its_chunks(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(8)
    held = driver.claim()
    assert jobs.cancel(db, job) == JobState.CANCELLED
    with pytest.raises(LeaseLost):
        driver.process_chunk(held)
    assert driver.try_claim() is None
    assert jobs.resume(db, job) == JobState.ACTIVE
    assert driver.try_claim() is not None


def test_failed_items_can_be_retried_by_reason(db: Database) -> None:
    driver = StoreDriver(db)
    job = driver.submit(4)
    claim = driver.claim()
    first, second, third, fourth = claim.items
    missing = [failed(second, Reason.MISSING), failed(third, Reason.MISSING)]
    driver.commit_batch(claim, [captioned(first), *missing, failed(fourth)])
    leases.complete(db, claim)
    assert jobs.reasons(db, job) == {"missing": 2, "truncated": 1}
    assert jobs.retry(db, job, Reason.MISSING, 128) == 2
    progress = driver.progress(job)
    assert (progress.total, progress.captioned, progress.failed, progress.state) == (4, 1, 1, JobState.ACTIVE)
    again = driver.claim()
    assert len(again.items) == 2
    driver.process_chunk(again)
    progress = driver.progress(job)
    assert (progress.captioned, progress.failed, progress.state) == (3, 1, JobState.DONE)
    assert [failure.reason for failure in jobs.failures(db, job)] == ["truncated"]


def test_a_submit_continues_a_job_with_an_interrupted_walk_before_a_newer_one(db: Database) -> None:
    driver = StoreDriver(db)
    interrupted = driver.open_job()
    jobs.cancel(db, interrupted)
    newer = driver.submit(4)
    jobs.resume(db, interrupted)
    assert driver.submit(4) == interrupted
    assert driver.submit(4) == newer
    for claim in driver.claim_all():
        driver.process_chunk(claim)
    assert [progress.state for progress in jobs.progress(db)] == [JobState.DONE, JobState.DONE]
