"""One claimed chunk: its files are read and decoded, in batches, by a thread of its own.

`captioning`, `committing` and `pipeline` do the rest.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from captioning.decoding.pool import DecodedImage, DecodePool, DecodeRequest
from captioning.errors import FileUnreachable, FolderUnavailable, ImageError
from captioning.store import leases, results
from captioning.store.claims import Claim, ClaimedItem
from captioning.store.database import Database
from captioning.store.outcomes import Content, Outcome, Provenance
from captioning.values import PERMANENT_REASONS, Caption, ItemState, Reason
from worker.contents_in_flight import ContentsInFlight
from worker.disk_reader import Reads
from worker.file_reader import FileReader
from worker.reader import FileBytes
from worker.sharing import CaptionSharing
from worker.stages import Stage, Stages

TURN_SECONDS = 30.0  # with one chunk; then its rest is released and other jobs go first
BATCH_BYTES = 64_000_000  # of files in memory; a batch is cut short before it exceeds this
PARTIAL_BATCH_SECONDS = 5.0  # decoded images wait this long for the rest of their batch
NO_NUMBERS = ImageError(Reason.NO_RESULT, "the model computed no numbers for it")
FOLDER_GONE_SECONDS = 30.0  # grace for a folder that is gone; an empty one has CAPTIONING_MISSING_GRACE_SECONDS
T = TypeVar("T")


@dataclass(frozen=True)
class Resources:
    """What a pool process uses for a chunk."""

    db: Database
    decode_pool: DecodePool
    files: FileReader
    in_flight: ContentsInFlight
    stages: Stages = field(default_factory=Stages)


@dataclass(frozen=True)
class ChunkConfig:
    """How a chunk is processed."""

    batch_size: int  # images
    missing_grace_seconds: float
    lease_seconds: float
    backoff_seconds: float  # that a chunk with unreachable files waits before it is claimed again
    provenance: Provenance
    first_batch_size: int = 0  # images; 0: as the others
    turn_seconds: float = TURN_SECONDS
    batch_bytes: int = BATCH_BYTES
    partial_batch_seconds: float = PARTIAL_BATCH_SECONDS


@dataclass
class FileBatch:
    """A batch after reading: the files' contents, and the outcomes of files that could not be read."""

    files: list[tuple[ClaimedItem, FileBytes]] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)
    size: int = 0  # bytes

    def __len__(self) -> int:
        return len(self.files) + len(self.failed)


@dataclass
class DecodedBatch:
    """A batch before the model: the outcomes that need no model, and the images to caption."""

    finished: list[Outcome] = field(default_factory=list)
    to_caption: list[tuple[Outcome, DecodedImage]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.to_caption)

    def split(self, count: int) -> "tuple[DecodedBatch, DecodedBatch]":
        """Return the first images to caption, and the rest with what is finished: copies follow their captions."""
        return DecodedBatch([], self.to_caption[:count]), DecodedBatch(self.finished, self.to_caption[count:])


class LeaseKeeper:
    """Extends the lease of a chunk after progress, from any thread."""

    def __init__(self, db: Database, claim: Claim, seconds: float) -> None:
        self._db = db
        self._claim = claim
        self._seconds = seconds
        self._renewed_at = time.monotonic()
        self._lock = threading.Lock()

    def renew_if_due(self) -> None:
        """Extend the lease if a quarter of it has passed. Raises LeaseLost and StoreUnavailable."""
        with self._lock:
            if time.monotonic() - self._renewed_at > self._seconds / 4:
                self._db.retry(lambda: leases.renew(self._db, self._claim, self._seconds))
                self._renewed_at = time.monotonic()

    def note_renewal(self) -> None:
        """Note that a commit has extended the lease."""
        self._renewed_at = time.monotonic()


class ChunkWork:
    """Reads and decodes one claimed chunk. `counts` says how many items were committed, by state."""

    def __init__(self, claim: Claim, root: bytes, resources: Resources, config: ChunkConfig) -> None:
        self.claim = claim
        self.root = root
        self.resources = resources
        self.config = config
        self.db = resources.db
        self.lease = LeaseKeeper(resources.db, claim, config.lease_seconds)
        self.counts: Counter[ItemState] = Counter()
        self.undecoded = len(claim.items)  # images that no batch has yet
        self.is_over = False  # nothing of it is wanted any more
        self.is_closed = False  # it is completed, released or lost
        self.started = self.advanced = time.monotonic()
        self.waited = 0.0  # seconds, for the model
        self._contents: dict[str, ImageError | None] = {}  # SHA-256s of this chunk, and why one cannot be decoded
        self._sharing = CaptionSharing(resources.db, claim) if claim.skip_near_duplicates else None
        self._unreachable: list[FileUnreachable] = []  # files without an outcome, because they may come back

    @property
    def turn_is_over(self) -> bool:
        """Whether other jobs go first now: images that take very long to decode must not delay them."""
        return time.monotonic() - self.started - self.waited > self.config.turn_seconds

    def batches(self) -> Iterator[DecodedBatch]:
        """Yield the decoded batches. Raises ServiceUnavailable, and FolderUnavailable when files were unreachable."""
        if self._sharing is not None:  # of two near-duplicates in two chunks, the later one finds the earlier one
            self.resources.in_flight.take(self.claim, ["near-duplicates"], lambda: self.is_over)
        for batch in self._file_batches():
            yield from self._decode(batch)
        if self._unreachable:
            first = self._unreachable[0]
            raise FolderUnavailable(f"{first.detail}. If this lasts, the files fail as {first.reason}")

    def outcomes(self, batch: DecodedBatch, captions: Iterator[Caption]) -> list[Outcome]:
        """Return the outcomes of a batch with the captions of its images. One without text is a failure."""
        found = list(batch.finished)
        for outcome, _ in batch.to_caption:
            caption = next(captions)
            if caption.text:
                found.append(replace(outcome, caption=caption))
            else:
                self._contents[_sha256(outcome)] = NO_NUMBERS
                found.append(_failed(outcome.item, NO_NUMBERS, was_read=True))
        return [self._without_caption(outcome) for outcome in found]

    def _without_caption(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a copy of an image for which the model has computed no numbers: it fails too."""
        error = self._contents.get(_sha256(outcome)) if outcome.state == ItemState.REUSED else None
        return outcome if error is None else _failed(outcome.item, error, was_read=True)

    def _file_batches(self) -> Iterator[FileBatch]:
        """Read the files of the chunk and cut it into batches, by count and by bytes."""
        with self.resources.files.reading(self.root, self.claim.items, self.lease.renew_if_due) as reads:
            yield from self._read_batches(reads)

    def _read_batches(self, reads: Reads) -> Iterator[FileBatch]:
        batch, started = FileBatch(), time.monotonic()
        most = self.config.first_batch_size or self.config.batch_size
        for item, read in reads:
            if len(batch) and (len(batch) >= most or batch.size + item.size > self.config.batch_bytes):
                yield batch
                batch, most = FileBatch(), self.config.batch_size
            try:
                began = time.monotonic()
                content = read()
                self.resources.stages.count_read(len(content.data), time.monotonic() - began)
                batch.files.append((item, content))
                batch.size += len(content.data)
            except ImageError as error:
                if isinstance(error, FileUnreachable) and self._may_come_back(error):
                    self._unreachable.append(error)
                    # A dead file server may take a minute for each file.
                    if time.monotonic() - started > self.config.turn_seconds:
                        break
                else:
                    batch.failed.append(_failed(item, error, was_read=False))
            self.lease.renew_if_due()
        if len(batch):
            yield batch

    def _may_come_back(self, error: FileUnreachable) -> bool:
        waited, grace = self.claim.deferrals * self.config.backoff_seconds, self.config.missing_grace_seconds
        return waited < (min(FOLDER_GONE_SECONDS, grace) if error.folder_gone else grace)

    def _decode(self, batch: FileBatch) -> Iterator[DecodedBatch]:
        """Decode a batch, except contents that have a caption or occur earlier in this chunk.

        Yields the batch in parts when some of its images are slow to decode.
        """
        to_decode, repeated = self._split(batch.files)
        part, started = DecodedBatch(finished=batch.failed), time.monotonic()
        requests = [DecodeRequest(file.data, (item, file), item.attempts) for item, file in to_decode]
        for request, result in self._timed(self.resources.decode_pool.decode_all(requests, self._count_death)):
            item, file = request.item
            self.lease.renew_if_due()
            if isinstance(result, ImageError):
                self._contents[file.sha256] = result
                part.finished.append(_failed(item, result, was_read=True))
            else:
                content = Content(file.sha256, len(file.data), result.info)
                outcome = Outcome(item, ItemState.CAPTIONED, content, thumbnail=result.thumbnail)
                part.to_caption.append((outcome, result))
            if time.monotonic() - started > self.config.partial_batch_seconds:
                yield self._without_near_duplicates(part)
                part, started = DecodedBatch(), time.monotonic()
        part.finished += [self._repeated(item, file) for item, file in repeated]
        yield self._without_near_duplicates(part)

    def _timed(self, decoded: Iterator[T]) -> Iterator[T]:
        """Yield what a decode pool yields, and count the time that it takes."""
        seconds, began = 0.0, time.monotonic()
        for one in decoded:
            seconds += time.monotonic() - began
            yield one
            began = time.monotonic()
        self.resources.stages.add(Stage.DECODE, seconds)

    def _without_near_duplicates(self, batch: DecodedBatch) -> DecodedBatch:
        """Return a batch in which near-duplicates of captioned images need no model, if the job wants that.

        Of several in a batch, the one with the most pixels is captioned.
        """
        if self._sharing is None:
            return batch
        best_first = sorted((outcome for outcome, _ in batch.to_caption), key=_size_of_image, reverse=True)
        sources = self._sharing.sources([(_sha256(outcome), outcome.thumbnail or b"") for outcome in best_first])
        shared = [
            replace(outcome, state=ItemState.REUSED, shared_from=sources[_sha256(outcome)])
            for outcome, _ in batch.to_caption
            if _sha256(outcome) in sources
        ]
        to_caption = [pair for pair in batch.to_caption if _sha256(pair[0]) not in sources]
        return DecodedBatch(batch.finished + shared, to_caption)

    def _split(
        self, files: list[tuple[ClaimedItem, FileBytes]]
    ) -> tuple[list[tuple[ClaimedItem, FileBytes]], list[tuple[ClaimedItem, FileBytes]]]:
        """Separate contents to decode from those that have a caption already, or will have one after this batch."""
        captioned: set[str] = set()
        if not self.claim.force:
            sha256s = {file.sha256 for _, file in files} - self._contents.keys()
            self.resources.in_flight.take(self.claim, sha256s, lambda: self.is_over)
            with self.resources.stages.timed(Stage.LOOK_UP):
                captioned = self.db.retry(lambda: results.captioned_digests(self.db, self.claim, list(sha256s)))
            self.resources.in_flight.give_back(self.claim, captioned)
        to_decode, repeated = [], []
        for item, file in files:
            if file.sha256 in captioned or file.sha256 in self._contents:
                repeated.append((item, file))
            else:
                self._contents[file.sha256] = None
                to_decode.append((item, file))
        return to_decode, repeated

    def _count_death(self, request: DecodeRequest[tuple[ClaimedItem, FileBytes]]) -> None:
        item, _ = request.item
        self.resources.stages.count_death()
        self.db.retry(lambda: leases.count_attempt(self.db, self.claim, item))

    def _repeated(self, item: ClaimedItem, file: FileBytes) -> Outcome:
        error = self._contents.get(file.sha256)
        if error is not None:
            return _failed(item, error, was_read=True)
        return Outcome(item, ItemState.REUSED, Content(file.sha256, len(file.data), None))


def _sha256(outcome: Outcome) -> str:
    return outcome.content.sha256 if outcome.content is not None else ""


def _size_of_image(outcome: Outcome) -> tuple[int, int]:
    """Return pixels and bytes."""
    content = outcome.content
    return (content.info.width * content.info.height, content.bytes) if content and content.info else (0, 0)


def _failed(item: ClaimedItem, error: ImageError, *, was_read: bool) -> Outcome:
    """Return the outcome of an image that cannot be captioned.

    An error of the file system may pass. What the decoder says of the bytes, and the size of a file, stay.
    """
    is_permanent = error.reason == Reason.TOO_LARGE or (was_read and error.reason in PERMANENT_REASONS)
    return Outcome(item, ItemState.FAILED, reason=error.reason, detail=error.detail, is_permanent=is_permanent)
