"""The store compared with a reference model, step by step, in random orders of events.

Wake-up messages are sent, lost, duplicated and delivered late; workers die at any point, and some return with a lease
that they have lost; leases expire; meanwhile people pause, cancel, retry and resubmit jobs and change files. After each
step the rows equal the model. At the end of each example a healthy worker can finish every job.

The examples are the same in every run, unless CAPTIONING_TEST_EXAMPLES sets a number: then they are new ones.
"""

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

from captioning.errors import LeaseLost
from captioning.mounts import Mounts
from captioning.store import claims, files, forget, jobs, leases, results
from captioning.store.claims import Claim, ClaimedItem
from captioning.store.database import Database
from captioning.store.files import FoundFile, ReusePolicy
from captioning.store.outcomes import Content, Outcome
from captioning.store.presence import FileIdSet, mark_missing
from captioning.store.schema import Base, Chunk, Job
from captioning.values import Caption, ChunkState, DecodeOptions, ImageInfo, ItemState, JobState, Reason
from tests.conftest import EXAMPLES
from tests.store.helpers import GRU, LEASE_SECONDS, LSTM, PROVENANCE
from tests.store.reference_model import CaptionKey, ModelChunk, ModelJob, ModelStore, SubmitRequest
from tests.store.table_snapshot import FINISHED, Snapshot, clock, expected_row, take_snapshot

SETTINGS = settings(
    max_examples=int(EXAMPLES or 12),
    stateful_step_count=50,
    suppress_health_check=list(HealthCheck),
)
MOUNT = Mounts().of_nearest(b"/photos")  # there is no such folder, so its files can be marked as missing
FILES_PER_TRANSACTION = 5  # that a submit registers
MAX_MESSAGES = 3  # wake-up messages that a sweep keeps in the queue
BAD_CONTENTS = {6: Reason.TRUNCATED, 7: Reason.UNREADABLE}  # contents that cannot be decoded
NAMES = [b"a.jpg", b"b.jpg", b"c.jpg", b"d/e.jpg", b"f\xff.png"]
CONTENTS = st.integers(0, 7)
PLACES = st.tuples(st.integers(0, 1), st.sampled_from(NAMES))  # root and name
REQUESTS = st.integers(0, 5)
WORKERS = st.integers(0, 2)
CHUNK_SIZES = st.integers(1, 4)
HELD_SECONDS = st.sampled_from([0.0, 0.0, 60.0])  # how long a worker held its chunk
INDEXES = st.integers(0, 5)  # of one of the existing things, counted from the last one, modulo their number
FEW = st.integers(1, 3)
T = TypeVar("T")


class DiskFile(NamedTuple):
    content: int
    mtime_ns: int

    @property
    def size(self) -> int:
        return 100 + self.content // 2  # pairs of contents have the same size

    @property
    def sha256(self) -> str:
        return f"{self.content:064x}"


class Worker(NamedTuple):
    """A worker with the models that it has and the roots that it sees."""

    name: str
    models: dict[int, str]  # digests by model id
    roots: list[int]


@dataclass(eq=False)
class HeldChunk:
    """A chunk from the view of the worker that claimed it. The worker may have lost it since."""

    worker: str
    claim: Claim
    chunk: ModelChunk
    undecided: list[ClaimedItem]
    uncommitted: list[list[Outcome]] = field(default_factory=list)  # batches
    last_commit: list[Outcome] = field(default_factory=list)
    captioned: set[str] = field(default_factory=set)  # contents on which the model ran for this claim

    @property
    def is_held(self) -> bool:
        return self.chunk.is_held_with(self.claim.fence)

    def claim_held_for(self, seconds: float) -> Claim:
        """Return the claim as if the worker had held it for so long."""
        return replace(self.claim, claimed_at=time.monotonic() - seconds)


def caption_text(key: CaptionKey) -> str:
    """Return the caption of a content, the same whichever worker writes it."""
    content, model_id, options = key
    return f"content {int(content, 16)} by model {model_id} with {options}"


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, db: Database) -> None:
        super().__init__()
        self.db = db
        delete_jobs_and_files(db)
        self.model = ModelStore()
        self.model_bundles = {jobs.register_model(db, bundle, default=LSTM.name): bundle for bundle in (LSTM, GRU)}
        for path in (b"/photos", b"/scans"):
            files.ensure_root(db, path)
        self.roots = {root.id: root.path for root in files.roots(db)}
        photos, scans = sorted(self.roots)
        lstm, gru = self.model_bundles
        digests = {model_id: bundle.digest for model_id, bundle in self.model_bundles.items()}
        self.requests = [
            SubmitRequest((photos,), lstm),
            SubmitRequest((photos, scans), lstm),
            SubmitRequest((scans,), gru),
            SubmitRequest((photos,), lstm, DecodeOptions(beam_size=1)),
            SubmitRequest((photos, scans), lstm, force=True),
            SubmitRequest((photos, scans), lstm, takes_done=True),
        ]
        self.workers = [
            Worker("all-round", digests, [photos, scans]),
            Worker("photos-only", digests, [photos]),
            Worker("lstm-only", {lstm: LSTM.digest}, [photos, scans]),
        ]
        self.disk: dict[tuple[int, bytes], DiskFile] = {}
        self.ticks = count(1)
        self.submits: list[Iterator[None]] = []  # that are not finished
        self.messages: list[int] = []  # wake-up messages in the queue
        self.held: list[HeldChunk] = []  # the last claims, including those of workers that died
        self.claimed: set[tuple[int, int]] = set()  # every chunk id and fence that was ever handed out
        self.chunks_by_id: dict[int, ModelChunk] = {}
        self.fences: dict[int, int] = {}
        self.at = clock(self.db)

    # -- files and submits --

    @initialize(
        contents=st.lists(CONTENTS, min_size=6, max_size=10),
        request=REQUESTS,
        chunk_size=CHUNK_SIZES,
        claiming=st.lists(WORKERS, max_size=3),
    )
    def begin(self, contents: list[int], request: int, chunk_size: int, claiming: list[int]) -> None:
        for n, content in enumerate(contents):
            self.change_a_file((n % 2, NAMES[n // 2]), content)
        self.submit(request, 0, chunk_size, 9)
        for worker in claiming:
            self._claim(self.workers[worker])
            self._check_rows()

    @rule(place=PLACES, content=st.none() | CONTENTS)
    def change_a_file(self, place: tuple[int, bytes], content: int | None) -> None:
        key = (sorted(self.roots)[place[0]], place[1])
        if content is None:
            self.disk.pop(key, None)
        else:
            self.disk[key] = DiskFile(content, next(self.ticks))

    @rule(request=REQUESTS, priority=st.integers(0, 1), chunk_size=CHUNK_SIZES, steps=st.integers(1, 9))
    def submit(self, request: int, priority: int, chunk_size: int, steps: int) -> None:
        """Begin a submit, of a new job or of one that exists, and run some of its transactions."""
        self.submits = [*self.submits[-2:], self._submitting(self.requests[request], priority, chunk_size)]
        self.continue_a_submit(0, steps)

    @precondition(lambda self: self.submits)
    @rule(index=INDEXES, steps=FEW)
    def continue_a_submit(self, index: int, steps: int) -> None:
        submit = nth_last(self.submits, index)
        for _ in range(steps):
            if next(submit, self) is self:
                self.submits.remove(submit)
                return
            self._check_rows()

    def _submitting(self, request: SubmitRequest, priority: int, chunk_size: int) -> Iterator[None]:
        """Run a submit, one transaction per step, of the files as they are at its start. It may never be continued."""
        walks = {
            root: [
                FoundFile(path, f.size, f.mtime_ns, f.mtime_ns, MOUNT)
                for (at, path), f in sorted(self.disk.items())
                if at == root
            ]
            for root in request.roots
        }
        job = self._open_job(request, priority)
        yield
        known, seen = 0, FileIdSet()
        for root, walk in walks.items():
            for start in range(0, len(walk), FILES_PER_TRANSACTION):
                if self.model.jobs.get(job.id) is not job:
                    return  # it was removed
                known += self._register(job, root, walk[start : start + FILES_PER_TRANSACTION], chunk_size, seen)
                yield
        for root, walk in walks.items():
            missing = mark_missing(self.db, [self.roots[root]], seen).missing
            assert missing == self.model.mark_missing(root, {found.path for found in walk})
        yield
        if self.model.jobs.get(job.id) is not job:
            return
        jobs.close_registration(self.db, job.id, known, {})
        self.model.close_registration(job, known)

    def _open_job(self, request: SubmitRequest, priority: int) -> ModelJob:
        existing = self.model.find_job(request)
        job_request = jobs.JobRequest(repr(request), "job", request.options, priority, request.force)
        done_within_seconds = 1e6 if request.takes_done else 0.0
        job_id, continued = jobs.open_job(self.db, job_request, request.model_id, done_within_seconds)
        assert continued == (existing is not None)
        assert job_id == existing.id if existing else job_id not in self.model.jobs
        return self.model.open_job(job_id, request, priority)

    def _register(self, job: ModelJob, root: int, found: list[FoundFile], chunk_size: int, seen: FileIdSet) -> int:
        """Register files; return how many were known."""
        model_id = job.request.model_id
        policy = ReusePolicy(model_id, self.model_bundles[model_id].name, stale=False, force=job.request.force)
        registered = files.register(self.db, job.id, root, found, policy, chunk_size)
        counts = registered.new, registered.known, registered.failed_before
        assert counts == self.model.register(job, root, found, chunk_size)
        for file_id in registered.file_ids:
            seen.add(file_id)
        self.messages.append(next(self.ticks))
        return registered.known

    # -- wake-up messages: a message only says that there is work --

    @rule(event=st.sampled_from(["send", "duplicate", "lose one", "lose all"]), index=INDEXES)
    def disturb_the_queue(self, event: str, index: int) -> None:
        if event == "send":
            self.messages.append(next(self.ticks))
        elif event == "lose all":
            self.messages.clear()
        elif self.messages:
            message = nth_last(self.messages, index)
            self.messages.append(message) if event == "duplicate" else self.messages.remove(message)

    @rule(index=INDEXES, worker=WORKERS)
    def sweep(self, index: int, worker: int) -> None:
        """Count the claimable chunks, send the missing messages and deliver one of them."""
        _, models, roots = self.workers[worker]
        counted = claims.count_claimable(self.db, list(models.values()), roots, MAX_MESSAGES)
        claimable = [len(self.model.claimable(models, roots, at)) for at in (self.at, clock(self.db))]
        assert min(claimable[0], MAX_MESSAGES) <= counted <= min(claimable[1], MAX_MESSAGES)  # a backoff may just end
        while len(self.messages) < counted:
            self.messages.append(next(self.ticks))
        if self.messages:
            self.deliver(index, worker, 0)

    @precondition(lambda self: self.messages)
    @rule(index=INDEXES, worker=WORKERS, batches=st.integers(0, 4))
    def deliver(self, index: int, worker: int, batches: int) -> None:
        """Deliver a message, not always the oldest. The worker claims a chunk and processes some batches of it."""
        self.messages.remove(nth_last(self.messages, index))
        held = self._claim(self.workers[worker])
        if held is not None:
            self._check_rows()
            self._process(held, batches)

    def _claim(self, worker: Worker) -> HeldChunk | None:
        claim = claims.claim(self.db, worker.name, list(worker.models.values()), worker.roots, LEASE_SECONDS)
        expected = [
            next(iter(self.model.claimable(worker.models, worker.roots, at)), None) for at in (self.at, clock(self.db))
        ]
        if claim is None:
            assert None in expected
            return None
        chunk = self.chunks_by_id[claim.chunk_id]
        assert chunk in expected
        self.model.claim(chunk, worker.name, self.at, LEASE_SECONDS)
        request = chunk.job.request
        assert (claim.job_id, claim.root_id, claim.fence) == (chunk.job.id, chunk.root, chunk.fence)
        assert (claim.model_id, claim.model_digest) == (request.model_id, worker.models[request.model_id])
        assert (claim.options, claim.force) == (request.options, request.force)
        assert [(i.path, i.size, i.mtime_ns, i.attempts, i.was_missed) for i in claim.items] == [
            (i.file.path, i.file.size, i.file.mtime_ns, i.attempts, i.file.missing) for i in chunk.pending
        ]
        assert (claim.chunk_id, claim.fence) not in self.claimed
        self.claimed.add((claim.chunk_id, claim.fence))
        held = HeldChunk(worker.name, claim, chunk, list(claim.items))
        self.held = [*self.held[-5:], held]
        return held

    # -- workers, alive or believed dead: one that lost its chunk gets LeaseLost and changes nothing --

    @precondition(lambda self: any(held.undecided for held in self.held))
    @rule(index=INDEXES, size=FEW)
    def decide(self, index: int, size: int) -> None:
        """Read and caption some images without committing the results."""
        self._decide_batch(nth_last([held for held in self.held if held.undecided], index), size)

    def _decide_batch(self, held: HeldChunk, size: int) -> None:
        batch, held.undecided = held.undecided[:size], held.undecided[size:]
        if batch:
            held.uncommitted.append([self._decide(held, item) for item in batch])

    def _decide(self, held: HeldChunk, item: ClaimedItem) -> Outcome:
        claim = held.claim
        file = self.disk.get((claim.root_id, item.path))
        reason = Reason.MISSING if file is None else BAD_CONTENTS.get(file.content)
        if file is None or reason:
            return Outcome(
                item, ItemState.FAILED, reason=reason, detail="as arranged", is_permanent=reason != Reason.MISSING
            )
        sha256 = file.sha256
        key = held.chunk.job.caption_key(sha256)
        has_caption = results.captioned_digests(self.db, claim, [sha256]) == {sha256}
        assert has_caption == (key in self.model.captions)
        if sha256 in held.captioned or (has_caption and not claim.force):
            return Outcome(item, ItemState.REUSED, Content(sha256, file.size, None))
        held.captioned.add(sha256)
        content = Content(sha256, file.size, ImageInfo(640, 480, "JPEG"))
        return Outcome(item, ItemState.CAPTIONED, content, Caption(caption_text(key), (-0.5,)))

    @precondition(lambda self: any(held.is_held for held in self.held))
    @rule(index=INDEXES, batches=st.integers(1, 4))
    def process(self, index: int, batches: int) -> None:
        self._process(nth_last([held for held in self.held if held.is_held], index), batches)

    def _process(self, held: HeldChunk, batches: int) -> None:
        """Decide and commit batches of two images; complete the chunk when nothing is left and a batch is."""
        for _ in range(batches):
            if held.undecided or held.uncommitted:
                self._decide_batch(held, 2)
                self._commit_next(held)
                self._check_rows()
            elif held.is_held:
                self._complete(held, 0.0)

    @precondition(lambda self: any(held.uncommitted for held in self.held))
    @rule(index=INDEXES)
    def commit_batch(self, index: int) -> None:
        self._commit_next(nth_last([held for held in self.held if held.uncommitted], index))

    @precondition(lambda self: any(held.last_commit for held in self.held))
    @rule(index=INDEXES, after_retry=st.booleans())
    def repeat_a_commit(self, index: int, after_retry: bool) -> None:
        """Commit a batch again, as after a lost connection, perhaps after its failed items were queued again."""
        held = nth_last([held for held in self.held if held.last_commit], index)
        if after_retry and held.chunk.job in self.model.jobs.values():
            self._retry(held.chunk.job, None, 2)
            self._check_rows()
        self._commit(held)

    def _commit_next(self, held: HeldChunk) -> None:
        held.last_commit = held.uncommitted.pop(0)
        self._commit(held)

    def _commit(self, held: HeldChunk) -> None:
        batch = held.last_commit
        if self._succeeds(held, lambda: results.commit_batch(self.db, held.claim, batch, PROVENANCE, LEASE_SECONDS)):
            self.model.commit_batch(held.chunk, batch, self.at + LEASE_SECONDS)

    @precondition(lambda self: self.held)
    @rule(index=INDEXES)
    def renew(self, index: int) -> None:
        held = nth_last(self.held, index)
        if self._succeeds(held, lambda: leases.renew(self.db, held.claim, LEASE_SECONDS)):
            held.chunk.lease_until = self.at + LEASE_SECONDS

    @precondition(lambda self: any(held.undecided for held in self.held))
    @rule(index=INDEXES)
    def count_attempt(self, index: int) -> None:
        """A decode process dies of the next image."""
        held = nth_last([held for held in self.held if held.undecided], index)
        claimed = held.undecided[0]
        if self._succeeds(held, lambda: leases.count_attempt(self.db, held.claim, claimed)):
            for item in held.chunk.items:  # the item is not among them when a change moved it to another chunk
                item.attempts += item.file.path == claimed.path

    @precondition(lambda self: any(not held.undecided and not held.uncommitted for held in self.held))
    @rule(index=INDEXES, held_seconds=HELD_SECONDS)
    def complete(self, index: int, held_seconds: float) -> None:
        finished = [held for held in self.held if not held.undecided and not held.uncommitted]
        self._complete(nth_last(finished, index), held_seconds)

    def _complete(self, held: HeldChunk, held_seconds: float) -> None:
        if self._succeeds(held, lambda: leases.complete(self.db, held.claim_held_for(held_seconds))):
            self.model.complete(held.chunk, self.at, held_seconds)

    @precondition(lambda self: self.held)
    @rule(index=INDEXES, held_seconds=HELD_SECONDS, backoff=st.sampled_from([0.0, 15.0]), counted=st.booleans())
    def release(self, index: int, held_seconds: float, backoff: float, counted: bool) -> None:
        """A worker gives its chunk back: it was asked to stop, its root is gone, or the work makes it fail."""
        held = nth_last(self.held, index)
        claim = held.claim_held_for(held_seconds)
        if self._succeeds(held, lambda: leases.release(self.db, claim, backoff, counts_as_attempt=counted)):
            self.model.release(held.chunk, self.at, held_seconds, backoff, counts_as_attempt=counted)

    @precondition(lambda self: self.held)
    @rule(index=INDEXES, event=st.sampled_from(["hangs", "stopped", "stopped", "died"]))
    def lose_a_worker(self, index: int, event: str) -> None:
        """A lease expires, or the successor of a dead worker releases what that one held."""
        held = nth_last(self.held, index)
        if event != "hangs":
            self._release_held_by(held.worker, counts_as_attempt=event == "died")
        elif held.is_held and held.chunk.lease_until is not None:
            with self.db.writing() as connection:
                chunk = sa.update(Chunk).where(Chunk.id == held.claim.chunk_id)
                connection.execute(chunk.values(lease_until=Chunk.lease_until - LEASE_SECONDS - 1))
            held.chunk.lease_until -= LEASE_SECONDS + 1

    def _release_held_by(self, worker: str, *, counts_as_attempt: bool) -> None:
        released = leases.release_held_by(self.db, worker, counts_as_attempt=counts_as_attempt)
        assert released == self.model.release_held_by(worker, self.at, counts_as_attempt=counts_as_attempt)

    @rule(worker=WORKERS, deaths=FEW)
    def die_repeatedly(self, worker: int, deaths: int) -> None:
        """Workers die one after the other, each with a chunk; the last one survives."""
        for _ in range(deaths):
            if self._claim(self.workers[worker]) is None:
                return
            self._check_rows()
            self._release_held_by(self.workers[worker].name, counts_as_attempt=True)
            self._check_rows()
            self.let_time_pass(700.0)
        self._claim(self.workers[worker])

    def _succeeds(self, held: HeldChunk, write: Callable[[], None]) -> bool:
        """Return whether a worker's write succeeds. It must raise LeaseLost if the worker lost its chunk."""
        if held.is_held:
            write()
            return True
        with pytest.raises(LeaseLost):
            write()
        return False

    # -- time --

    @rule(seconds=st.sampled_from([6.0, 30.0, LEASE_SECONDS + 1, 700.0]))
    def let_time_pass(self, seconds: float) -> None:
        """Move all times into the past."""
        with self.db.writing() as connection:
            connection.execute(sa.update(Chunk).values(lease_until=Chunk.lease_until - seconds))
            connection.execute(sa.update(Job).values(last_claimed_at=Job.last_claimed_at - seconds))
        for job in self.model.jobs.values():
            job.last_claimed_at -= seconds
        for chunk in self.model.chunks:
            chunk.lease_until = None if chunk.lease_until is None else chunk.lease_until - seconds

    # -- people --

    @rule(index=INDEXES, action=st.sampled_from(["pause", "resume", "resume", "cancel"]))
    def change_state(self, index: int, action: str) -> None:
        self._change_state(nth_last(list(self.model.jobs.values()), index), action)

    def _change_state(self, job: ModelJob, action: str) -> None:
        state = getattr(jobs, action)(self.db, job.id)
        getattr(self.model, action)(job)
        assert state == job.state

    @precondition(lambda self: any(job.failed for job in self.model.jobs.values()))
    @rule(
        index=INDEXES,
        reason=st.sampled_from([None, None, Reason.MISSING, *BAD_CONTENTS.values()]),
        chunk_size=CHUNK_SIZES,
    )
    def retry(self, index: int, reason: Reason | None, chunk_size: int) -> None:
        self._retry(nth_last([job for job in self.model.jobs.values() if job.failed], index), reason, chunk_size)

    def _retry(self, job: ModelJob, reason: Reason | None, chunk_size: int) -> None:
        retried = jobs.retry(self.db, job.id, reason, chunk_size)
        assert retried == self.model.retry(job, reason, chunk_size)

    @precondition(lambda self: len(self.model.jobs) > 1)
    @rule(index=INDEXES)
    def forget_a_job(self, index: int) -> None:
        job = nth_last(list(self.model.jobs.values()), index)
        gone = {chunk_id for chunk_id, chunk in self.chunks_by_id.items() if chunk.job is job}
        forget.forget(self.db, forget.scope_of_job(self.db, job.id))
        self.model.forget_job(job)
        # SQLite gives these numbers to later chunks.
        self.fences = {chunk_id: fence for chunk_id, fence in self.fences.items() if chunk_id not in gone}
        self.claimed = {(chunk_id, fence) for chunk_id, fence in self.claimed if chunk_id not in gone}

    @precondition(lambda self: self.model.files)
    @rule(index=INDEXES)
    def forget_a_file(self, index: int) -> None:
        file = nth_last(list(self.model.files.values()), index)
        forget.forget(self.db, forget.scope_of_path(self.db, self.roots[file.root] + b"/" + file.path))
        self.model.forget_file(file)

    # -- checks after every step --

    @invariant()
    def check(self) -> None:
        self._check_rows()
        self._check_progress()

    def _check_rows(self) -> None:
        snapshot = take_snapshot(self.db)
        snapshot.check_invariants()
        self._check_fences(snapshot)
        self._check_times(snapshot)
        assert [tuple(chunk[2:]) for chunk in snapshot.chunks] == [expected_row(chunk) for chunk in self.model.chunks]
        assert [tuple(item) for item in snapshot.items] == [
            (chunk.job.id, chunk.seq, item.file.root, item.file.path, item.state, item.reason, item.attempts)
            for chunk in self.model.chunks
            for item in chunk.items
        ]
        assert [tuple(file) for file in snapshot.files] == [
            (file.root, file.path, file.size, file.mtime_ns, file.sha256, file.missing, file.failed_reason)
            for file in self.model.files.values()
        ]
        captions = [(*key, text) for key, text in self.model.captions.items()]
        assert sorted(map(tuple, snapshot.captions)) == sorted(captions)

    def _check_fences(self, snapshot: Snapshot) -> None:
        for chunk in snapshot.chunks:
            assert chunk.fence >= self.fences.get(chunk.id, 0)
            self.fences[chunk.id] = chunk.fence

    def _check_times(self, snapshot: Snapshot) -> None:
        """Compare leases and last claims, and copy them to the model: they depend on when in the step they were set."""
        step_seconds, self.at = snapshot.at - self.at, snapshot.at

        def checked(actual: float | None, expected: float | None) -> float | None:
            if actual is None or expected is None:
                assert actual is expected
            else:  # twice: a postponement after a long turn contains the duration of the step once more
                assert -0.01 < actual - expected < 2 * step_seconds + 0.1
            return actual

        for row, chunk in zip(snapshot.chunks, self.model.chunks, strict=True):
            self.chunks_by_id[row.id] = chunk
            chunk.lease_until = checked(row.lease_until, chunk.lease_until)
        for row, job in zip(snapshot.jobs, self.model.jobs.values(), strict=True):
            job.last_claimed_at = checked(row.last_claimed_at, job.last_claimed_at) or 0.0

    def _check_progress(self) -> None:
        for progress, job in zip(jobs.progress(self.db), reversed(self.model.jobs.values()), strict=True):
            assert (progress.job, progress.state, progress.priority) == (job.id, job.state, job.priority)
            assert (progress.registered, progress.known, progress.total) == (job.registered, job.known, len(job.items))
            finished = [sum(item.state == state for item in job.items) for state in FINISHED]
            assert [progress.captioned, progress.reused, progress.failed] == finished
            assert progress.model_runs == sum(chunk.model_runs for chunk in job.chunks)
            assert (progress.finished_at is not None) == (job.state == JobState.DONE)

    # -- the end of an example --

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # otherwise the example has failed already
            self._finish_all_jobs()

    def _finish_all_jobs(self) -> None:
        """Resume all jobs, repeat the submits that were interrupted, and let a worker process every chunk."""
        for job in self.model.jobs.values():
            self._change_state(job, "resume")
        for request in [job.request for job in self.model.jobs.values() if not job.registered]:
            for _ in self._submitting(request, 0, 4):
                self._check_rows()
        self.let_time_pass(10_000)
        while (held := self._claim(self.workers[0])) is not None:
            self._process(held, 100)
            self._check_rows()
        self._check_progress()
        model_jobs = self.model.jobs.values()
        assert all(job.state == JobState.DONE for job in model_jobs)
        assert all(chunk.state == ChunkState.DONE for chunk in self.model.chunks)
        assert all(item.state in FINISHED for job in model_jobs for item in job.items)
        succeeded = [(job, item.sha256) for job in model_jobs for item in job.items if item not in job.failed]
        assert {job.caption_key(sha256 or "") for job, sha256 in succeeded} <= self.model.captions.keys()
        # Some captions are of files as they were before a change; each has the text of its content all the same.
        assert self.model.captions == {key: caption_text(key) for key in self.model.captions}


def nth_last(things: Sequence[T], n: int) -> T:
    return things[-1 - n % len(things)]


@pytest.fixture
def fast_db(db: Database) -> Database:
    """A database that may lose commits in a power cut, so that many examples take little time."""
    db.engine.dispose()

    @sa.event.listens_for(db.engine, "connect")
    def _commit_without_waiting(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF" if db.is_sqlite else "SET synchronous_commit TO off")
        connection.commit()

    return db


def delete_jobs_and_files(db: Database) -> None:
    """Delete what was submitted and captioned. This is much faster than creating the tables again."""
    with db.writing() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name not in ("roots", "models", "sweeps"):
                connection.execute(table.delete())


@pytest.mark.timeout(0)  # Hypothesis ends by itself, and shrinking a failure takes long
def test_the_rows_equal_the_reference_model_in_any_order_of_events(fast_db: Database) -> None:
    run_state_machine_as_test(lambda: StoreMachine(fast_db), settings=SETTINGS)
