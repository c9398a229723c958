"""What the store should do, said again in plain Python: lists, no SQL, no transactions, one at a time.

It refuses to know how rows are kept. Times are seconds by the database's clock, handed in by who asks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from captioning.store.files import FoundFile
from captioning.store.leases import Outcome
from captioning.values import ChunkState, DecodeOptions, ItemState, JobState, Reason

CaptionKey = tuple[str, int, str]  # content, model, digest of the options
BEAMS = DecodeOptions()
UNFINISHED = (JobState.ACTIVE, JobState.PAUSED)


@dataclass(frozen=True)
class SubmitRequest:
    """What a person submits. The same again continues a job that isn't finished."""

    roots: tuple[int, ...]
    model: int
    options: DecodeOptions = BEAMS
    force: bool = False


@dataclass(eq=False)
class PlainFile:
    number: int
    root: int
    path: bytes
    size: int
    mtime_ns: int
    sha256: str | None = None
    missing: bool = False


@dataclass(eq=False)
class PlainItem:
    number: int
    file: PlainFile
    state: ItemState = ItemState.PENDING
    reason: Reason | None = None
    crashes: int = 0
    sha256: str | None = None  # of what was captioned


@dataclass(eq=False)
class PlainChunk:
    job: "PlainJob"
    seq: int
    root: int
    items: list[PlainItem]
    state: ChunkState = ChunkState.PENDING
    fence: int = 0
    crashes: int = 0
    worker: str | None = None
    lease: float | None = None
    model_runs: int = 0

    @property
    def pending(self) -> list[PlainItem]:
        return [item for item in self.items if item.state == ItemState.PENDING]

    @property
    def rest(self) -> float:
        return min(600.0, 5.0 * self.attempts**2)

    def count(self, state: ItemState) -> int:
        return sum(item.state == state for item in self.items)

    def is_free(self, at: float) -> bool:
        if self.state == ChunkState.PENDING:
            return (self.lease or 0.0) < at
        return self.state == ChunkState.RUNNING and self.lease is not None and self.lease + self.rest < at

    def is_held_by(self, fence: int) -> bool:
        return (self.state, self.fence) == (ChunkState.RUNNING, fence) and self.job.state != JobState.CANCELLED

    def give_back(self, lease: float | None) -> None:
        self.state, self.lease = ChunkState.PENDING, lease


@dataclass(eq=False)
class PlainJob:
    id: int
    order: SubmitRequest
    priority: int
    state: JobState = JobState.ACTIVE
    registered: bool = False
    known: int = 0
    served: float = 0.0  # when it had its last turn, or that of others after a long one will be over
    chunks: list[PlainChunk] = field(default_factory=list)

    @property
    def items(self) -> list[PlainItem]:
        return [item for chunk in self.chunks for item in chunk.items]

    @property
    def failed(self) -> list[PlainItem]:
        return [item for item in self.items if item.state == ItemState.FAILED]

    def key(self, sha256: str) -> CaptionKey:
        return sha256, self.order.model, self.order.options.digest

    def add_chunks(self, root: int, items: Sequence[PlainItem], size: int) -> None:
        for start in range(0, len(items), size):
            self.chunks.append(PlainChunk(self, len(self.chunks) + 1, root, list(items[start : start + size])))
        if items and self.state == JobState.DONE:
            self.state = JobState.ACTIVE

    def count_turn(self, at: float, held: float) -> None:
        if held > 5:
            self.served = at + held

    def settle(self) -> None:
        if self.registered and self.state == JobState.ACTIVE and all(c.state == ChunkState.DONE for c in self.chunks):
            self.state = JobState.DONE


class PlainStore:
    """Files, jobs and captions, and what producers, workers and people do to them."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, bytes], PlainFile] = {}
        self.jobs: dict[int, PlainJob] = {}
        self.captions: dict[CaptionKey, str] = {}
        self._items = 0

    @property
    def chunks(self) -> list[PlainChunk]:
        return [chunk for job in self.jobs.values() for chunk in job.chunks]

    # -- what producers do --

    def going(self, order: SubmitRequest) -> PlainJob | None:
        """Return the job that a submit would continue: one whose walk was cut off, else the newest."""
        same = [job for job in self.jobs.values() if job.order == order and job.state in UNFINISHED]
        return min(same, key=lambda job: (job.registered, -job.id), default=None)

    def open_job(self, number: int, order: SubmitRequest, priority: int) -> PlainJob:
        job = self.going(order) or self.jobs.setdefault(number, PlainJob(number, order, priority))
        job.priority = priority
        return job

    def register(self, job: PlainJob, root: int, found: Sequence[FoundFile], chunk_size: int) -> tuple[int, int]:
        """Return how many files were new and how many known."""
        seen = [self._see(root, one) for one in found]
        files = [file for file, _ in seen]
        mine = {item.file for item in job.items}
        others = [file for file in files if file not in mine]
        new = [file for file in others if job.order.force or not self._has_caption(file, job.order.model)]
        new.sort(key=lambda file: (file.size, file.number))
        job.add_chunks(root, [self._item(file) for file in new], chunk_size)
        changed = {file for file, has_changed in seen if has_changed}
        self._again(job, root, [i for i in job.items if i.file in files and i.file in mine], changed, chunk_size)
        return len(new), len(others) - len(new)

    def _again(
        self, job: PlainJob, root: int, items: list[PlainItem], changed: Collection[PlainFile], chunk_size: int
    ) -> None:
        """Queue what the job has said, or a worker is about to say, of files as they were before they changed."""
        at_work = {item for chunk in job.chunks if chunk.state == ChunkState.RUNNING for item in chunk.items}
        stale = [
            item
            for item in items
            if (item.file in changed and (item.state != ItemState.PENDING or item in at_work))
            or (item.state in (ItemState.CAPTIONED, ItemState.REUSED) and item.file.sha256 is None)
        ]
        self._requeue(job, root, stale, chunk_size)

    def _requeue(self, job: PlainJob, root: int, items: Collection[PlainItem], chunk_size: int) -> None:
        for chunk in job.chunks:
            chunk.items = [item for item in chunk.items if item not in items]
        for item in items:
            item.state, item.reason, item.attempts = ItemState.PENDING, None, 0
        job.add_chunks(root, sorted(items, key=lambda item: item.number), chunk_size)

    def _see(self, root: int, found: FoundFile) -> tuple[PlainFile, bool]:
        """Note that a file is there; return it, and whether it has changed."""
        fresh = PlainFile(len(self.files), root, found.path, found.size, found.mtime_ns)
        file = self.files.setdefault((root, found.path), fresh)
        changed = (file.size, file.mtime_ns) != (found.size, found.mtime_ns)
        if changed:
            file.size, file.mtime_ns, file.sha256 = found.size, found.mtime_ns, None
        file.missing = False
        return file, changed

    def _has_caption(self, file: PlainFile, model: int) -> bool:
        return any(key[:2] == (file.sha256, model) for key in self.captions)

    def _item(self, file: PlainFile) -> PlainItem:
        self._items += 1
        return PlainItem(self._items, file)

    def mark_missing(self, root: int, seen: Collection[bytes]) -> int:
        gone = [f for f in self.files.values() if f.root == root and f.path not in seen and not f.missing]
        for file in gone:
            file.missing = True
        return len(gone)

    def close_registration(self, job: PlainJob, known: int) -> None:
        job.registered, job.known = True, known
        job.settle()

    # -- what workers do --

    def claimable(self, models: Collection[int], roots: Collection[int], at: float) -> list[PlainChunk]:
        """Return the chunks that may be taken, the best first."""
        jobs = [job for job in self.jobs.values() if job.state == JobState.ACTIVE and job.order.model in models]
        jobs.sort(key=lambda job: (-job.priority, job.served, job.id))
        return [chunk for job in jobs for chunk in job.chunks if chunk.root in roots and chunk.is_free(at)]

    def take(self, chunk: PlainChunk, worker: str, at: float, lease_seconds: float) -> None:
        chunk.job.served = at
        chunk.attempts += chunk.state == ChunkState.RUNNING
        chunk.state, chunk.worker, chunk.lease = ChunkState.RUNNING, worker, at + lease_seconds
        chunk.fence += 1
        pending = chunk.pending
        if chunk.attempts >= 2 and len(pending) > 1:
            rest = pending[len(pending) // 2 :]
            chunk.items = [item for item in chunk.items if item not in rest]
            chunk.job.add_chunks(chunk.root, rest, len(rest))
            chunk.job.chunks[-1].attempts = chunk.attempts

    def commit_batch(self, chunk: PlainChunk, outcomes: Sequence[Outcome], lease: float) -> None:
        chunk.lease = lease
        places = {(item.file.root, item.file.path): item for item in chunk.pending}
        for outcome in outcomes:
            item = places.get((chunk.root, outcome.item.path))
            if outcome.caption is not None and outcome.content is not None:
                self.captions.setdefault(chunk.job.key(outcome.content.sha256), outcome.caption.text)
            if item is None:
                continue
            item.state, item.reason = outcome.state, outcome.reason
            chunk.attempts = 0
            if outcome.content is None:
                continue
            file, item.sha256 = item.file, outcome.content.sha256
            if (file.size, file.mtime_ns) == (outcome.item.size, outcome.item.mtime_ns):
                file.sha256 = item.sha256
            if outcome.caption is not None:
                chunk.model_runs += 1

    def finish(self, chunk: PlainChunk, at: float, held: float) -> None:
        chunk.state, chunk.lease = ChunkState.DONE, None
        chunk.job.count_turn(at, held)
        chunk.job.settle()

    def release(self, chunk: PlainChunk, at: float, held: float, backoff_seconds: float, *, crashed: bool) -> None:
        chunk.job.count_turn(at, held)
        chunk.give_back(at + (max(chunk.rest, backoff_seconds) if crashed else backoff_seconds))
        chunk.attempts += crashed

    def release_held_by(self, worker: str, at: float, *, crashed: bool) -> int:
        held = [c for c in self.chunks if (c.worker, c.state) == (worker, ChunkState.RUNNING)]
        for chunk in held:
            chunk.fence += 1
            chunk.give_back(at + chunk.rest if crashed else None)
            chunk.attempts += crashed
        return len(held)

    # -- what people do --

    def pause(self, job: PlainJob) -> None:
        if job.state == JobState.ACTIVE:
            job.state = JobState.PAUSED

    def resume(self, job: PlainJob) -> None:
        if job.state in (JobState.PAUSED, JobState.CANCELLED):
            job.state = JobState.ACTIVE
            job.settle()

    def cancel(self, job: PlainJob) -> None:
        if job.state in UNFINISHED:
            job.state = JobState.CANCELLED
            for chunk in job.chunks:
                if chunk.state == ChunkState.RUNNING:
                    chunk.fence += 1
                    chunk.give_back(None)

    def retry(self, job: PlainJob, reason: Reason | None, chunk_size: int) -> int:
        failed = [item for item in job.failed if reason in (None, item.reason)]
        for root in sorted({item.file.root for item in failed}):
            self._requeue(job, root, [item for item in failed if item.file.root == root], chunk_size)
        return len(failed)
