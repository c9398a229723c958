"""The store against a plain model of it, step by step, in orders that nobody thought of.

Bells are rung, lost, doubled and delivered late; workers die anywhere and come back from the dead; leases run out;
people pause, cancel, retry, submit again and change files meanwhile. After each step the rows are what the model
says, whole, and at the end of each run a worker that does its duty finishes every job.

CAPTIONING_TEST_EXAMPLES=1000 tries so many runs, other ones each time; otherwise they are the same every time.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from captioning.store import files, jobs, leases
from captioning.store.database import Database
from captioning.store.files import FileIdSet, FoundFile, ReusePolicy
from captioning.store.leases import Claim, Content, LeaseLost, Outcome, ClaimedItem
from captioning.store.schema import Base, Chunk, Job
from captioning.values import Caption as CliResult
from captioning.values import ChunkState, DecodeOptions, ImageInfo, ItemState, JobState, Reason
from tests.store.helpers import GRU, LEASE, LSTM, PROVENANCE
from tests.store.reference_model import CaptionKey, PlainChunk, PlainJob, PlainStore, SubmitRequest
from tests.store.table_snapshot import DECIDED, Rows, as_row, clock, read_rows

EXAMPLES = os.environ.get("CAPTIONING_TEST_EXAMPLES")
RUNS = settings(
    max_examples=int(EXAMPLES or 12),
    stateful_step_count=50,
    deadline=None,
    derandomize=EXAMPLES is None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
BATCH = 5  # files registered in one transaction
BELLS = 3  # as many as a sweep lets ring
BAD = {6: Reason.TRUNCATED, 7: Reason.UNREADABLE}  # contents that can't be opened
NAMES = [b"a.jpg", b"b.jpg", b"c.jpg", b"d/e.jpg", b"f\xff.png"]
CONTENTS = st.integers(0, 7)
PLACES = st.tuples(st.integers(0, 1), st.sampled_from(NAMES))
ORDERS = st.integers(0, 4)
WORKERS = st.integers(0, 2)
CHUNK_SIZES = st.integers(1, 4)
TURNS = st.sampled_from([0.0, 0.0, 60.0])  # how long a worker had its chunk, seconds
ONE = st.integers(0, 5)  # which of those that there are, counted from the last
FEW = st.integers(1, 3)
T = TypeVar("T")


class OnDisk(NamedTuple):
    content: int
    mtime_ns: int

    @property
    def size(self) -> int:
        return 100 + self.content // 2  # some contents are of one size

    @property
    def sha256(self) -> str:
        return f"{self.content:064x}"


class Able(NamedTuple):
    """A worker, and what it can do."""

    name: str
    models: dict[int, str]
    roots: list[int]


@dataclass(eq=False)
class Hand:
    """A chunk as the worker knows it that took it. It may have been taken away since."""

    worker: str
    claim: Claim
    chunk: PlainChunk
    ahead: list[ClaimedItem]
    decided: list[list[Outcome]] = field(default_factory=list)
    committed: list[Outcome] = field(default_factory=list)  # the last micro-batch
    met: set[str] = field(default_factory=set)

    @property
    def mine(self) -> bool:
        return self.chunk.is_held_by(self.claim.fence)

    def after(self, seconds: float) -> Claim:
        """Return the claim as if it had been in hand for so long."""
        return replace(self.claim, claimed_at=time.monotonic() - seconds)


def says(key: CaptionKey) -> str:
    """What a model says about a content: the same, whoever asks."""
    content, model, options = key
    return f"content {int(content, 16)} by model {model} with {options}"


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, db: Database) -> None:
        super().__init__()
        self.db = db
        empty(db)
        self.plain = PlainStore()
        self.models = {jobs.register_model(db, b, default=LSTM.name): b for b in (LSTM, GRU)}
        for path in (b"/photos", b"/scans"):
            files.ensure_root(db, path)
        self.roots = {root.id: root.path for root in files.roots(db)}
        photos, scans = sorted(self.roots)
        lstm, gru = self.models
        digests = {model: bundle.digest for model, bundle in self.models.items()}
        self.orders = [
            SubmitRequest((photos,), lstm),
            SubmitRequest((photos, scans), lstm),
            SubmitRequest((scans,), gru),
            SubmitRequest((photos,), lstm, DecodeOptions(beam_size=1)),
            SubmitRequest((photos, scans), lstm, force=True),
        ]
        self.workers = [
            Able("all-round", digests, [photos, scans]),
            Able("photos-only", digests, [photos]),
            Able("lstm-only", {lstm: LSTM.digest}, [photos, scans]),
        ]
        self.disk: dict[tuple[int, bytes], OnDisk] = {}
        self.ticks = count(1)
        self.submits: list[Iterator[None]] = []  # that are not through
        self.bells: list[int] = []
        self.hands: list[Hand] = []  # also those of workers long dead
        self.given: set[tuple[int, int]] = set()  # chunks and fences that were ever handed out
        self.by_id: dict[int, PlainChunk] = {}
        self.fences: dict[int, int] = {}
        self.at = clock(self.db)

    # -- files and those who submit them --

    @initialize(
        contents=st.lists(CONTENTS, min_size=6, max_size=10),
        order=ORDERS,
        chunk_size=CHUNK_SIZES,
        at_work=st.lists(WORKERS, max_size=3),
    )
    def begin(self, contents: list[int], order: int, chunk_size: int, at_work: list[int]) -> None:
        for n, content in enumerate(contents):
            self.change_a_file((n % 2, NAMES[n // 2]), content)
        self.submit(order, 0, chunk_size, 9)
        for worker in at_work:
            self._claim(self.workers[worker])
            self._check_rows()

    @rule(place=PLACES, content=st.none() | CONTENTS)
    def change_a_file(self, place: tuple[int, bytes], content: int | None) -> None:
        where = (sorted(self.roots)[place[0]], place[1])
        if content is None:
            self.disk.pop(where, None)
        else:
            self.disk[where] = OnDisk(content, next(self.ticks))

    @rule(order=ORDERS, priority=st.integers(0, 1), chunk_size=CHUNK_SIZES, steps=st.integers(1, 9))
    def submit(self, order: int, priority: int, chunk_size: int, steps: int) -> None:
        """Submit, for the first time or again, as far as the producer comes before it is held up."""
        self.submits = [*self.submits[-2:], self._submitting(self.orders[order], priority, chunk_size)]
        self.go_on_submitting(0, steps)

    @precondition(lambda self: self.submits)
    @rule(which=ONE, steps=FEW)
    def go_on_submitting(self, which: int, steps: int) -> None:
        submit = nth_last(self.submits, which)
        for _ in range(steps):
            if next(submit, self) is self:
                self.submits.remove(submit)
                return
            self._check_rows()

    def _submitting(self, order: SubmitRequest, priority: int, chunk_size: int) -> Iterator[None]:
        """Do one transaction at a time, of the folders as they are at first; the producer may die at each."""
        walks = {
            root: [FoundFile(path, it.size, it.mtime_ns) for (home, path), it in sorted(self.disk.items()) if home == root]
            for root in order.roots
        }
        job = self._open(order, priority)
        yield
        known, seen = 0, FileIdSet()
        for root, walk in walks.items():
            for start in range(0, len(walk), BATCH):
                known += self._register(job, root, walk[start : start + BATCH], chunk_size, seen)
                yield
        for root, walk in walks.items():
            gone = files.mark_missing(self.db, self.roots[root], seen)
            assert gone == self.plain.mark_missing(root, {found.path for found in walk})
        yield
        jobs.close_registration(self.db, job.id, known, {})
        self.plain.close_registration(job, known)

    def _open(self, order: SubmitRequest, priority: int) -> PlainJob:
        going = self.plain.going(order)
        request = jobs.JobRequest(repr(order), "job", order.options, priority, order.force)
        number, continued = jobs.open_job(self.db, request, order.model)
        assert continued == (going is not None)
        assert number == going.id if going else number not in self.plain.jobs
        return self.plain.open_job(number, order, priority)

    def _register(self, job: PlainJob, root: int, found: list[FoundFile], chunk_size: int, seen: FileIdSet) -> int:
        terms = ReusePolicy(job.order.model, self.models[job.order.model].name, stale=False, force=job.order.force)
        registered = files.register(self.db, job.id, root, found, terms, chunk_size)
        assert (registered.new, registered.known) == self.plain.register(job, root, found, chunk_size)
        for file_id in registered.file_ids:
            seen.add(file_id)
        self.bells.append(next(self.ticks))
        return registered.known

    # -- bells: they say that there is work, no more --

    @rule(how=st.sampled_from(["ring", "duplicate", "lose one", "lose all"]), which=ONE)
    def disturb_the_bells(self, how: str, which: int) -> None:
        if how == "ring":
            self.bells.append(next(self.ticks))
        elif how == "lose all":
            self.bells.clear()
        elif self.bells:
            bell = nth_last(self.bells, which)
            self.bells.append(bell) if how == "duplicate" else self.bells.remove(bell)

    @rule(which=ONE, worker=WORKERS)
    def sweep(self, which: int, worker: int) -> None:
        able = self.workers[worker]
        counted = leases.count_claimable(self.db, list(able.models.values()), able.roots, BELLS)
        free = [len(self.plain.claimable(able.models, able.roots, at)) for at in (self.at, clock(self.db))]
        assert min(free[0], BELLS) <= counted <= min(free[1], BELLS)  # some may just have rested enough
        while len(self.bells) < counted:
            self.bells.append(next(self.ticks))
        if self.bells:
            self.deliver(which, worker, 0)

    @precondition(lambda self: self.bells)
    @rule(which=ONE, worker=WORKERS, batches=st.integers(0, 4))
    def deliver(self, which: int, worker: int, batches: int) -> None:
        """A bell, not the first one always, reaches a worker. It takes a chunk and begins, and may come to its end."""
        self.bells.remove(nth_last(self.bells, which))
        hand = self._claim(self.workers[worker])
        if hand is not None:
            self._check_rows()
            self._work(hand, batches)

    def _claim(self, able: Able) -> Hand | None:
        taken = leases.claim(self.db, able.name, list(able.models.values()), able.roots, LEASE)
        best = [next(iter(self.plain.claimable(able.models, able.roots, at)), None) for at in (self.at, clock(self.db))]
        if taken is None:
            assert None in best
            return None
        chunk = self.by_id[taken.chunk_id]
        assert chunk in best
        self.plain.take(chunk, able.name, self.at, LEASE)
        order = chunk.job.order
        assert (taken.job_id, taken.root_id, taken.fence) == (chunk.job.id, chunk.root, chunk.fence)
        assert (taken.model_id, taken.model_digest) == (order.model, able.models[order.model])
        assert (taken.options, taken.force) == (order.options, order.force)
        assert [(w.path, w.size, w.mtime_ns, w.attempts, w.was_missed) for w in taken.work] == [
            (i.file.path, i.file.size, i.file.mtime_ns, i.attempts, i.file.missing) for i in chunk.pending
        ]
        assert (taken.chunk_id, taken.fence) not in self.given
        self.given.add((taken.chunk_id, taken.fence))
        hand = Hand(able.name, taken, chunk, list(taken.work))
        self.hands = [*self.hands[-5:], hand]
        return hand

    # -- workers, alive or thought dead: who has lost a chunk is told so, and changes nothing --

    @precondition(lambda self: any(hand.ahead for hand in self.hands))
    @rule(which=ONE, size=FEW)
    def decide(self, which: int, size: int) -> None:
        """Read some images and caption them; nothing is committed yet."""
        self._decide_some(nth_last([hand for hand in self.hands if hand.ahead], which), size)

    def _decide_some(self, hand: Hand, size: int) -> None:
        batch, hand.ahead = hand.ahead[:size], hand.ahead[size:]
        if batch:
            hand.decided.append([self._decide(hand, work) for work in batch])

    def _decide(self, hand: Hand, item: ClaimedItem) -> Outcome:
        claim = hand.claim
        on_disk = self.disk.get((claim.root_id, work.path))
        reason = Reason.MISSING if on_disk is None else BAD.get(on_disk.content)
        if on_disk is None or reason:
            return Outcome(item, ItemState.FAILED, reason=reason, detail="as told")
        sha256 = on_disk.sha256
        key = hand.chunk.job.key(sha256)
        known = leases.captioned_digests(self.db, claim, [sha256]) == {sha256}
        assert known == (key in self.plain.captions)
        if sha256 in hand.met or (known and not claim.force):
            return Outcome(item, ItemState.REUSED, Content(sha256, on_disk.size, None))
        hand.met.add(sha256)
        content = Content(sha256, on_disk.size, ImageInfo(640, 480, "JPEG"))
        return Outcome(item, ItemState.CAPTIONED, content, CliResult(says(key), (-0.5,)))

    @precondition(lambda self: any(hand.mine for hand in self.hands))
    @rule(which=ONE, batches=st.integers(1, 4))
    def work_on(self, which: int, batches: int) -> None:
        self._work(nth_last([hand for hand in self.hands if hand.mine], which), batches)

    def _work(self, hand: Hand, batches: int) -> None:
        """Decide and commit two images at a time, and finish when nothing is left and there is a turn to."""
        for _ in range(batches):
            if hand.ahead or hand.decided:
                self._decide_some(hand, 2)
                self._record_next(hand)
                self._check_rows()
            elif hand.mine:
                self._finish(hand, 0.0)

    @precondition(lambda self: any(hand.decided for hand in self.hands))
    @rule(which=ONE)
    def commit_batch(self, which: int) -> None:
        self._record_next(nth_last([hand for hand in self.hands if hand.decided], which))

    @precondition(lambda self: any(hand.committed for hand in self.hands))
    @rule(which=ONE, retried=st.booleans())
    def record_again(self, which: int, retried: bool) -> None:
        """How the commit ended is not known: the connection was lost. What failed may be queued again by now."""
        hand = nth_last([hand for hand in self.hands if hand.committed], which)
        if retried:
            self._retry(hand.chunk.job, None, 2)
            self._check_rows()
        self._record(hand)

    def _record_next(self, hand: Hand) -> None:
        hand.committed = hand.decided.pop(0)
        self._record(hand)

    def _record(self, hand: Hand) -> None:
        if self._allowed(hand, lambda: leases.commit_batch(self.db, hand.claim, hand.committed, PROVENANCE, LEASE)):
            self.plain.commit_batch(hand.chunk, hand.committed, self.at + LEASE)

    @precondition(lambda self: self.hands)
    @rule(which=ONE)
    def renew(self, which: int) -> None:
        hand = nth_last(self.hands, which)
        if self._allowed(hand, lambda: leases.renew(self.db, hand.claim, LEASE)):
            hand.chunk.lease = self.at + LEASE

    @precondition(lambda self: any(hand.ahead for hand in self.hands))
    @rule(which=ONE)
    def count_attempt(self, which: int) -> None:
        """A decoder dies of the next image."""
        hand = nth_last([hand for hand in self.hands if hand.ahead], which)
        work = hand.ahead[0]
        if self._allowed(hand, lambda: leases.count_attempt(self.db, hand.claim, work)):
            for item in hand.chunk.items:  # unless a change has put it elsewhere
                item.attempts += item.file.path == work.path

    @precondition(lambda self: any(not hand.ahead and not hand.decided for hand in self.hands))
    @rule(which=ONE, held=TURNS)
    def finish(self, which: int, held: float) -> None:
        self._finish(nth_last([hand for hand in self.hands if not hand.ahead and not hand.decided], which), held)

    def _finish(self, hand: Hand, held: float) -> None:
        if self._allowed(hand, lambda: leases.complete(self.db, hand.after(held))):
            self.plain.finish(hand.chunk, self.at, held)

    @precondition(lambda self: self.hands)
    @rule(which=ONE, held=TURNS, rest=st.sampled_from([0.0, 15.0]), crashed=st.booleans())
    def release(self, which: int, held: float, rest: float, crashed: bool) -> None:
        """It is asked to stop, its root has gone, or the work makes it fail."""
        hand = nth_last(self.hands, which)
        if self._allowed(hand, lambda: leases.release(self.db, hand.after(held), rest, counts_as_attempt=crashed)):
            self.plain.release(hand.chunk, self.at, held, rest, counts_as_attempt=crashed)

    @precondition(lambda self: self.hands)
    @rule(which=ONE, how=st.sampled_from(["hangs", "is gone", "is gone", "died at work"]))
    def lose_a_worker(self, which: int, how: str) -> None:
        """A lease runs out, or the one who comes after a dead worker gives back what it held."""
        hand = nth_last(self.hands, which)
        if how != "hangs":
            self._give_back_all_of(hand.worker, crashed=how == "died at work")
        elif hand.mine and hand.chunk.lease is not None:
            with self.db.writing() as connection:
                mine = sa.update(Chunk).where(Chunk.id == hand.claim.chunk_id)
                connection.execute(mine.values(lease_until=Chunk.lease_until - LEASE - 1))
            hand.chunk.lease -= LEASE + 1

    def _give_back_all_of(self, worker: str, *, crashed: bool) -> None:
        given_back = leases.release_held_by(self.db, worker, counts_as_attempt=crashed)
        assert given_back == self.plain.release_held_by(worker, self.at, counts_as_attempt=crashed)

    @rule(worker=WORKERS, times=FEW)
    def die_again_and_again(self, worker: int, times: int) -> None:
        """Something kills whoever takes it, or looks like it; the last one lives."""
        for _ in range(times):
            if self._claim(self.workers[worker]) is None:
                return
            self._check_rows()
            self._give_back_all_of(self.workers[worker].name, counts_as_attempt=True)
            self._check_rows()
            self.let_time_pass(700.0)
        self._claim(self.workers[worker])

    def _allowed(self, hand: Hand, act: Callable[[], None]) -> bool:
        """Tell whether a worker may do this; who has lost its chunk must be told."""
        if hand.mine:
            act()
            return True
        with pytest.raises(LeaseLost):
            act()
        return False

    # -- time --

    @rule(seconds=st.sampled_from([6.0, 30.0, LEASE + 1, 700.0]))
    def let_time_pass(self, seconds: float) -> None:
        with self.db.writing() as connection:
            connection.execute(sa.update(Chunk).values(lease_until=Chunk.lease_until - seconds))
            connection.execute(sa.update(Job).values(last_claimed_at=Job.last_claimed_at - seconds))
        for job in self.plain.jobs.values():
            job.served -= seconds
        for chunk in self.plain.chunks:
            chunk.lease = None if chunk.lease is None else chunk.lease - seconds

    # -- people --

    @rule(which=ONE, how=st.sampled_from(["pause", "resume", "resume", "cancel"]))
    def intervene(self, which: int, how: str) -> None:
        self._move(nth_last(list(self.plain.jobs.values()), which), how)

    def _move(self, job: PlainJob, how: str) -> None:
        state = getattr(jobs, how)(self.db, job.id)
        getattr(self.plain, how)(job)
        assert state == job.state

    @precondition(lambda self: any(job.failed for job in self.plain.jobs.values()))
    @rule(which=ONE, reason=st.sampled_from([None, None, Reason.MISSING, *BAD.values()]), chunk_size=CHUNK_SIZES)
    def retry(self, which: int, reason: Reason | None, chunk_size: int) -> None:
        self._retry(nth_last([job for job in self.plain.jobs.values() if job.failed], which), reason, chunk_size)

    def _retry(self, job: PlainJob, reason: Reason | None, chunk_size: int) -> None:
        again = jobs.retry(self.db, job.id, reason, chunk_size)
        assert again == self.plain.retry(job, reason, chunk_size)

    # -- what holds after every step --

    @invariant()
    def check(self) -> None:
        self._check_rows()
        self._check_progress()

    def _check_rows(self) -> None:
        rows = read_rows(self.db)
        rows.keep_promises()
        self._check_fences(rows)
        self._check_times(rows)
        assert [tuple(chunk[2:]) for chunk in rows.chunks] == [as_row(chunk) for chunk in self.plain.chunks]
        assert [tuple(item) for item in rows.items] == [
            (chunk.job.id, chunk.seq, item.file.root, item.file.path, item.state, item.reason, item.attempts)
            for chunk in self.plain.chunks
            for item in chunk.items
        ]
        assert [tuple(file) for file in rows.files] == [
            (file.root, file.path, file.size, file.mtime_ns, file.sha256, file.missing)
            for file in self.plain.files.values()
        ]
        assert sorted(map(tuple, rows.captions)) == sorted((*key, text) for key, text in self.plain.captions.items())

    def _check_fences(self, rows: Rows) -> None:
        for chunk in rows.chunks:
            assert chunk.fence >= self.fences.get(chunk.id, 0)
            self.fences[chunk.id] = chunk.fence

    def _check_times(self, rows: Rows) -> None:
        """Leases and turns count from some moment of the last step; which one, the rows say."""
        step, self.at = rows.at - self.at, rows.at

        def agreed(at: float | None, expected: float | None) -> float | None:
            if at is None or expected is None:
                assert at is expected
            else:
                assert -0.01 < at - expected < 2 * step + 0.1  # a turn counts the step's own time a second time
            return at

        for row, chunk in zip(rows.chunks, self.plain.chunks, strict=True):
            self.by_id[row.id] = chunk
            chunk.lease = agreed(row.lease_until, chunk.lease)
        for row, job in zip(rows.served, self.plain.jobs.values(), strict=True):
            job.served = agreed(row.last_claimed_at, job.served) or 0.0

    def _check_progress(self) -> None:
        for seen, job in zip(jobs.progress(self.db), reversed(self.plain.jobs.values()), strict=True):
            assert (seen.job, seen.state, seen.priority) == (job.id, job.state, job.priority)
            assert (seen.registered, seen.known, seen.total) == (job.registered, job.known, len(job.items))
            done = [sum(item.state == state for item in job.items) for state in DECIDED]
            assert [seen.captioned, seen.reused, seen.failed] == done
            assert seen.model_runs == sum(chunk.model_runs for chunk in job.chunks)
            assert (seen.finished_at is not None) == (job.state == JobState.DONE)

    # -- at the end --

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else there is something to tell already
            self._end_all_jobs()

    def _end_all_jobs(self) -> None:
        """People let all jobs go on and submit again what was cut off; a worker does its duty."""
        for job in self.plain.jobs.values():
            self._move(job, "resume")
        for order in [job.order for job in self.plain.jobs.values() if not job.registered]:
            for _ in self._submitting(order, 0, 4):
                self._check_rows()
        self.let_time_pass(10_000)
        while (hand := self._claim(self.workers[0])) is not None:
            self._work(hand, 100)
            self._check_rows()
        self._check_progress()
        items = [item for job in self.plain.jobs.values() for item in job.items]
        assert all(job.state == JobState.DONE for job in self.plain.jobs.values())
        assert all(chunk.state == ChunkState.DONE for chunk in self.plain.chunks)
        assert all(item.state in DECIDED for item in items)
        good = [(job, item.sha256) for job in self.plain.jobs.values() for item in job.items if item not in job.failed]
        assert {job.key(sha256 or "") for job, sha256 in good} <= self.plain.captions.keys()
        assert self.plain.captions == {key: says(key) for key in self.plain.captions}  # some of files as they were


def nth_last(things: Sequence[T], n: int) -> T:
    return things[-1 - n % len(things)]


@pytest.fixture
def hasty(db: Database) -> Database:
    """A database that need not survive a power cut, so that many runs take little time."""
    db.engine.dispose()

    @sa.event.listens_for(db.engine, "connect")
    def _hurry(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF" if db.is_sqlite else "SET synchronous_commit TO off")
        connection.commit()

    return db


def empty(db: Database) -> None:
    """Forget all that was submitted and captioned. That is much quicker than to make the tables anew."""
    with db.writing() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name not in ("roots", "models", "sweeps"):
                connection.execute(table.delete())


@pytest.mark.timeout(0)  # Hypothesis ends by itself, and what it found is worth waiting for
def test_the_rows_are_what_a_plain_model_says_whatever_happens_in_whatever_order(hasty: Database) -> None:
    run_state_machine_as_test(lambda: StoreMachine(hasty), settings=RUNS)
