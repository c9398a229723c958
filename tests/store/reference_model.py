"""A reference model of the store in plain Python: objects and lists, no SQL, no transactions, no concurrency.

The state machine test compares the database with this model. The model does not know how rows are stored. Times are
seconds by the database's clock; the caller passes them in.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from captioning.store.files import FoundFile
from captioning.store.outcomes import Outcome
from captioning.values import PERMANENT_REASONS, ChunkState, DecodeOptions, ItemState, JobState, Reason

CaptionKey = tuple[str, int, str]  # digest of the content, model id, digest of the options
DEFAULT_OPTIONS = DecodeOptions()
UNFINISHED = (JobState.ACTIVE, JobState.PAUSED)


@dataclass(frozen=True)
class SubmitRequest:
    """What a `submit` asks for. An equal request continues a job that is not finished."""

    roots: tuple[int, ...]
    model_id: int
    options: DecodeOptions = DEFAULT_OPTIONS
    force: bool = False
    takes_done: bool = False  # an equal request also takes up a job that is done


@dataclass(eq=False)
class ModelFile:
    number: int
    root: int
    path: bytes
    size: int
    mtime_ns: int
    sha256: str | None = None
    missing: bool = False
    failed_reason: Reason | None = None


@dataclass(eq=False)
class ModelItem:
    number: int
    file: ModelFile
    state: ItemState = ItemState.PENDING
    reason: Reason | None = None
    attempts: int = 0
    sha256: str | None = None  # of the content that was captioned


@dataclass(eq=False)
class ModelChunk:
    job: "ModelJob"
    seq: int
    root: int
    items: list[ModelItem]
    state: ChunkState = ChunkState.PENDING
    fence: int = 0
    attempts: int = 0
    worker: str | None = None
    lease_until: float | None = None
    model_runs: int = 0

    @property
    def pending(self) -> list[ModelItem]:
        return [item for item in self.items if item.state == ItemState.PENDING]

    @property
    def backoff(self) -> float:
        """How long the chunk waits after a death, in seconds."""
        return min(600.0, 5.0 * self.attempts**2)

    def count(self, state: ItemState) -> int:
        return sum(item.state == state for item in self.items)

    def is_claimable(self, at: float) -> bool:
        if self.state == ChunkState.PENDING:
            return (self.lease_until or 0.0) < at
        expired = self.lease_until is not None and self.lease_until + self.backoff < at
        return self.state == ChunkState.RUNNING and expired

    def is_held_with(self, fence: int) -> bool:
        return (self.state, self.fence) == (ChunkState.RUNNING, fence) and self.job.state != JobState.CANCELLED

    def make_pending(self, lease_until: float | None) -> None:
        self.state, self.lease_until = ChunkState.PENDING, lease_until


@dataclass(eq=False)
class ModelJob:
    id: int
    request: SubmitRequest
    priority: int
    state: JobState = JobState.ACTIVE
    registered: bool = False
    known: int = 0
    last_claimed_at: float = 0.0  # in the future after a long turn
    chunks: list[ModelChunk] = field(default_factory=list)

    @property
    def items(self) -> list[ModelItem]:
        return [item for chunk in self.chunks for item in chunk.items]

    @property
    def failed(self) -> list[ModelItem]:
        return [item for item in self.items if item.state == ItemState.FAILED]

    def caption_key(self, sha256: str) -> CaptionKey:
        return sha256, self.request.model_id, self.request.options.digest

    def add_chunks(self, root: int, items: Sequence[ModelItem], chunk_size: int) -> None:
        for start in range(0, len(items), chunk_size):
            part = list(items[start : start + chunk_size])
            self.chunks.append(ModelChunk(self, len(self.chunks) + 1, root, part))
        if items and self.state == JobState.DONE:
            self.state = JobState.ACTIVE

    def postpone_after_long_turn(self, at: float, held_seconds: float) -> None:
        if held_seconds > 5:
            self.last_claimed_at = at + held_seconds

    def complete_if_done(self) -> None:
        if self.registered and self.state == JobState.ACTIVE and all(c.state == ChunkState.DONE for c in self.chunks):
            self.state = JobState.DONE


class ModelStore:
    """Files, jobs and captions, with the operations of producers, workers and people."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, bytes], ModelFile] = {}
        self.jobs: dict[int, ModelJob] = {}
        self.captions: dict[CaptionKey, str] = {}
        self._item_count = self._file_count = 0

    @property
    def chunks(self) -> list[ModelChunk]:
        return [chunk for job in self.jobs.values() for chunk in job.chunks]

    # -- producers --

    def find_job(self, request: SubmitRequest) -> ModelJob | None:
        """Return the job that a submit continues: one with an interrupted walk, otherwise the newest.

        A job that is done comes last.
        """
        states = (*UNFINISHED, JobState.DONE) if request.takes_done else UNFINISHED
        equal = [job for job in self.jobs.values() if job.request == request and job.state in states]
        return min(equal, key=lambda job: (job.registered, job.state == JobState.DONE, -job.id), default=None)

    def open_job(self, new_id: int, request: SubmitRequest, priority: int) -> ModelJob:
        job = self.find_job(request) or self.jobs.setdefault(new_id, ModelJob(new_id, request, priority))
        job.priority = priority
        return job

    def register(self, job: ModelJob, root: int, found: Sequence[FoundFile], chunk_size: int) -> tuple[int, int, int]:
        """Register files; return how many of them were new, known, and failed before."""
        updates = [self._update_file(root, one) for one in found]
        files = [file for file, _ in updates]
        in_job = {item.file for item in job.items}
        others = [file for file in files if file not in in_job]
        open_files = [f for f in others if job.request.force or not self._has_caption(f, job.request.model_id)]
        new = [f for f in open_files if f.failed_reason not in PERMANENT_REASONS]
        new.sort(key=lambda file: (file.size, file.number))
        job.add_chunks(root, [self._new_item(file) for file in new], chunk_size)
        changed = {file for file, has_changed in updates if has_changed}
        registered = [item for item in job.items if item.file in files and item.file in in_job]
        self._requeue(job, root, self._outdated(job, registered, changed), chunk_size)
        return len(new), len(others) - len(open_files), len(open_files) - len(new)

    def _outdated(self, job: ModelJob, items: Sequence[ModelItem], changed: Collection[ModelFile]) -> list[ModelItem]:
        """Return the items whose result describes, or is about to describe, a file as it was before it changed."""
        running = {item for chunk in job.chunks if chunk.state == ChunkState.RUNNING for item in chunk.items}
        return [
            item
            for item in items
            if (item.file in changed and (item.state != ItemState.PENDING or item in running))
            or (item.state in (ItemState.CAPTIONED, ItemState.REUSED) and item.file.sha256 is None)
            or item.reason == Reason.MISSING
        ]

    def _requeue(self, job: ModelJob, root: int, items: Collection[ModelItem], chunk_size: int) -> None:
        for chunk in job.chunks:
            chunk.items = [item for item in chunk.items if item not in items]
        for item in items:
            item.state, item.reason, item.attempts = ItemState.PENDING, None, 0
        job.add_chunks(root, sorted(items, key=lambda item: item.number), chunk_size)

    def _update_file(self, root: int, found: FoundFile) -> tuple[ModelFile, bool]:
        """Record a found file; return it and whether it changed."""
        self._file_count += 1
        new = ModelFile(self._file_count, root, found.path, found.size, found.mtime_ns)
        file = self.files.setdefault((root, found.path), new)
        changed = (file.size, file.mtime_ns) != (found.size, found.mtime_ns)
        if changed:
            file.size, file.mtime_ns, file.sha256, file.failed_reason = found.size, found.mtime_ns, None, None
        file.missing = False
        return file, changed

    def _has_caption(self, file: ModelFile, model_id: int) -> bool:
        return any(key[:2] == (file.sha256, model_id) for key in self.captions)

    def _new_item(self, file: ModelFile) -> ModelItem:
        self._item_count += 1
        return ModelItem(self._item_count, file)

    def mark_missing(self, root: int, seen: Collection[bytes]) -> int:
        missing = [f for f in self.files.values() if f.root == root and f.path not in seen and not f.missing]
        for file in missing:
            file.missing = True
        return len(missing)

    def close_registration(self, job: ModelJob, known: int) -> None:
        job.registered, job.known = True, known
        job.complete_if_done()

    # -- workers --

    def claimable(self, model_ids: Collection[int], roots: Collection[int], at: float) -> list[ModelChunk]:
        """Return the chunks that can be claimed, in the order in which they are claimed."""
        jobs = [job for job in self.jobs.values() if job.state == JobState.ACTIVE and job.request.model_id in model_ids]
        jobs.sort(key=lambda job: (-job.priority, job.last_claimed_at, job.id))
        return [chunk for job in jobs for chunk in job.chunks if chunk.root in roots and chunk.is_claimable(at)]

    def claim(self, chunk: ModelChunk, worker: str, at: float, lease_seconds: float) -> None:
        chunk.job.last_claimed_at = at
        chunk.attempts += chunk.state == ChunkState.RUNNING
        chunk.state, chunk.worker, chunk.lease_until = ChunkState.RUNNING, worker, at + lease_seconds
        chunk.fence += 1
        pending = chunk.pending
        if chunk.attempts >= 2 and len(pending) > 1:
            second_half = pending[len(pending) // 2 :]
            chunk.items = [item for item in chunk.items if item not in second_half]
            chunk.job.add_chunks(chunk.root, second_half, len(second_half))
            chunk.job.chunks[-1].attempts = chunk.attempts

    def commit_batch(self, chunk: ModelChunk, outcomes: Sequence[Outcome], lease_until: float) -> None:
        chunk.lease_until = lease_until
        pending = {(item.file.root, item.file.path): item for item in chunk.pending}
        for outcome in outcomes:
            if outcome.caption is not None and outcome.content is not None:
                self.captions.setdefault(chunk.job.caption_key(outcome.content.sha256), outcome.caption.text)
            item = pending.get((chunk.root, outcome.item.path))
            if item is None:
                continue
            item.state, item.reason = outcome.state, outcome.reason
            chunk.attempts = 0
            file = item.file
            is_unchanged = (file.size, file.mtime_ns) == (outcome.item.size, outcome.item.mtime_ns)
            if is_unchanged:
                file.failed_reason = outcome.reason
            if outcome.content is None:
                continue
            item.sha256 = outcome.content.sha256
            if is_unchanged:
                file.sha256 = item.sha256
            if outcome.caption is not None:
                chunk.model_runs += 1

    def complete(self, chunk: ModelChunk, at: float, held_seconds: float) -> None:
        chunk.state, chunk.lease_until = ChunkState.DONE, None
        chunk.job.postpone_after_long_turn(at, held_seconds)
        chunk.job.complete_if_done()

    def release(
        self, chunk: ModelChunk, at: float, held_seconds: float, backoff_seconds: float, *, counts_as_attempt: bool
    ) -> None:
        chunk.job.postpone_after_long_turn(at, held_seconds)
        chunk.make_pending(at + (max(chunk.backoff, backoff_seconds) if counts_as_attempt else backoff_seconds))
        chunk.attempts += counts_as_attempt

    def release_held_by(self, worker: str, at: float, *, counts_as_attempt: bool) -> int:
        held = [chunk for chunk in self.chunks if (chunk.worker, chunk.state) == (worker, ChunkState.RUNNING)]
        for chunk in held:
            chunk.fence += 1
            chunk.make_pending(at + chunk.backoff if counts_as_attempt else None)
            chunk.attempts += counts_as_attempt
        return len(held)

    # -- people --

    def pause(self, job: ModelJob) -> None:
        if job.state == JobState.ACTIVE:
            job.state = JobState.PAUSED

    def resume(self, job: ModelJob) -> None:
        if job.state in (JobState.PAUSED, JobState.CANCELLED):
            job.state = JobState.ACTIVE
            job.complete_if_done()

    def cancel(self, job: ModelJob) -> None:
        if job.state in UNFINISHED:
            job.state = JobState.CANCELLED
            for chunk in job.chunks:
                if chunk.state == ChunkState.RUNNING:
                    chunk.fence += 1
                    chunk.make_pending(None)

    def retry(self, job: ModelJob, reason: Reason | None, chunk_size: int) -> int:
        failed = [item for item in job.failed if reason in (None, item.reason)]
        for item in failed:
            item.file.failed_reason = None
        for root in sorted({item.file.root for item in failed}):
            self._requeue(job, root, [item for item in failed if item.file.root == root], chunk_size)
        return len(failed)

    def forget_job(self, job: ModelJob) -> None:
        """Remove a job, and its files that no other job lists."""
        job.state = JobState.CANCELLED
        del self.jobs[job.id]
        listed = {item.file for other in self.jobs.values() for item in other.items}
        for file in {item.file for item in job.items} - listed:
            del self.files[file.root, file.path]

    def forget_file(self, file: ModelFile) -> None:
        del self.files[file.root, file.path]
        for job in self.jobs.values():
            for chunk in job.chunks:
                if not any(item.file is file for item in chunk.items):
                    continue
                chunk.items = [item for item in chunk.items if item.file is not file]
                if chunk.state == ChunkState.PENDING and not chunk.pending:
                    chunk.state, chunk.lease_until = ChunkState.DONE, None
            job.complete_if_done()
