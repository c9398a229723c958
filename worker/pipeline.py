"""One chunk: read, look up, open, caption, commit, a micro-batch at a time; the next is read and opened
while the model works on this one.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from captioning.decoding.pool import DecodedImage, DecodePool
from captioning.errors import FileUnreachable, FolderUnavailable, ImageError
from captioning.model.captioner import Captioner
from captioning.settings import Settings
from captioning.store import leases
from captioning.store.database import Database
from captioning.store.leases import Claim, ClaimedItem, Content, Outcome, Provenance
from captioning.values import ItemState
from worker.adaptive_batch import AdaptiveBatch
from worker.reader import FileBytes, read_file

WAVE_BYTES = 128_000_000  # of files in memory at once, above which a micro-batch is cut short
PATIENCE_SECONDS = 5.0  # that images which are open wait for the rest of their micro-batch
BACKOFF_SECONDS = 15.0  # of a chunk that couldn't be worked off, before it is tried again
MOVED_SECONDS = 30.0  # that a folder which is gone is waited for; for one that is empty, CAPTIONING_GONE_SECONDS
TURN_SECONDS = 30.0  # with one chunk, after which what is left of it goes to the end of the line
T = TypeVar("T")
_AHEAD = 1  # micro-batches that are ready before the model asks


@dataclass(frozen=True)
class Ready:
    """A micro-batch before the model: what is decided already, and images to caption."""

    decided: list[Outcome]
    to_caption: list[tuple[Outcome, DecodedImage]]


class Pipeline:
    """What working off one chunk needs."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        captioner: Captioner,
        decode_pool: DecodePool,
        adaptive_batch: AdaptiveBatch,
        provenance: Provenance,
        root: bytes,
        lease_seconds: float,
    ) -> None:
        self.db = db
        self.settings = settings
        self.captioner = captioner
        self.decode_pool = decode_pool
        self.adaptive_batch = adaptive_batch
        self.provenance = provenance
        self.root = root
        self.lease_seconds = lease_seconds
        self._renewed = time.monotonic()
        self._renewing = threading.Lock()
        self._met: dict[str, ImageError | None] = {}  # contents met in this chunk, and why one can't be opened
        self._unseen: list[FileUnreachable] = []  # of files that are not decided, because they may come back

    def run(self, claim: Claim, stopping: Callable[[], bool]) -> bool:
        """ClaimedItem off a claim; return whether all of it is decided (else: asked to stop, or others' turn).

        Images that take for ever to open take it from their own job only. Raises LeaseLost and ServiceUnavailable, one of
        which is FolderUnavailable; what was committed stays.
        """
        begun = time.monotonic()
        for ready in _read_ahead(self._prepared(claim), _AHEAD):
            images = [opened.pixels for _, opened in ready.to_caption]
            said = self.adaptive_batch.caption(self.captioner, images, claim.options)
            outcomes = ready.decided + [
                replace(outcome, caption=caption) for (outcome, _), caption in zip(ready.to_caption, said, strict=True)
            ]
            self._persist(lambda o=outcomes: leases.commit_batch(self.db, claim, o, self.provenance, self.lease_seconds))  # type: ignore[misc]
            self._renewed = time.monotonic()
            if stopping() or time.monotonic() - begun > TURN_SECONDS:
                return False
        if self._unseen:
            first = self._unseen[0]
            raise FolderUnavailable(f"{first.detail}; if that stays so, they will count as {first.reason}")
        return True

    # -- before the model, on a thread of its own --

    def _prepared(self, claim: Claim) -> Iterator[Ready]:
        for wave in self._waves(claim):
            yield from self._prepare(claim, wave)

    def _waves(self, claim: Claim) -> Iterator[list[tuple[ClaimedItem, FileBytes | ImageError]]]:
        """Read the files of a chunk, and cut the chunk into micro-batches by count and by bytes."""
        wave: list[tuple[ClaimedItem, FileBytes | ImageError]] = []
        held, begun = 0, time.monotonic()
        for one in claim.items:
            if wave and (len(wave) >= self.settings.batch_size or held + one.size > WAVE_BYTES):
                yield wave
                wave, held = [], 0
            read = self._read(one)
            if isinstance(read, FileUnreachable) and self._may_return(claim, read):
                self._unseen.append(read)
                if time.monotonic() - begun > TURN_SECONDS:  # a server that is out of reach may take a minute each time
                    break
            else:
                wave.append((one, read))
                held += len(read.data) if isinstance(read, FileBytes) else 0
            self._renew(claim)
        if wave:
            yield wave

    def _may_return(self, claim: Claim, unseen: FileUnreachable) -> bool:
        waited, limit = claim.deferrals * BACKOFF_SECONDS, self.settings.missing_grace_seconds
        return waited < (min(MOVED_SECONDS, limit) if unseen.folder_gone else limit)

    def _read(self, work: ClaimedItem) -> FileBytes | ImageError:
        try:
            return read_file(self.root, work, self.settings.max_bytes)
        except ImageError as wrong:
            return wrong

    def _prepare(self, claim: Claim, wave: list[tuple[ClaimedItem, FileBytes | ImageError]]) -> Iterator[Ready]:
        """Decide what needs no model: failures, and content that has a caption or was met before in this chunk.

        Yields a micro-batch, in parts when some of its images are slow to open.
        """
        decided = [_failed(work, read) for work, read in wave if isinstance(read, ImageError)]
        good = [(work, read) for work, read in wave if isinstance(read, FileBytes)]
        fresh, again = self._divide(claim, good)
        to_caption: list[tuple[Outcome, DecodedImage]] = []
        begun = time.monotonic()
        opened = self.decode_pool.map(lambda pair: self._open(claim, *pair), fresh)
        for (work, read), one in zip(fresh, opened, strict=True):
            if isinstance(one, ImageError):
                self._met[read.sha256] = one
                decided.append(_failed(work, one))
            else:
                content = Content(read.sha256, len(read.data), one.facts)
                to_caption.append((Outcome(work, ItemState.CAPTIONED, content), one))
            if time.monotonic() - begun > PATIENCE_SECONDS:
                yield Ready(decided, to_caption)
                decided, to_caption, begun = [], [], time.monotonic()
        for work, read in again:
            wrong = self._met.get(read.sha256)
            reused = Outcome(work, ItemState.REUSED, Content(read.sha256, len(read.data), None))
            decided.append(reused if wrong is None else _failed(work, wrong))
        yield Ready(decided, to_caption)

    def _divide(
        self, claim: Claim, good: list[tuple[ClaimedItem, FileBytes]]
    ) -> tuple[list[tuple[ClaimedItem, FileBytes]], list[tuple[ClaimedItem, FileBytes]]]:
        """Tell contents that must be opened from those that have a caption, or will have one by then."""
        known: set[str] = set()
        if not claim.force:
            known = self._persist(lambda: leases.captioned_digests(self.db, claim, [read.sha256 for _, read in good]))
        fresh, again = [], []
        for work, read in good:
            if read.sha256 in known or read.sha256 in self._met:
                again.append((work, read))
            else:
                self._met[read.sha256] = None
                fresh.append((work, read))
        return fresh, again

    def _open(self, claim: Claim, work: ClaimedItem, read: FileBytes) -> DecodedImage | ImageError:
        try:
            noted = functools.partial(leases.count_attempt, self.db, claim, work)
            return self.decode_pool.open(read.data, work.attempts, lambda: self._persist(noted))
        except ImageError as wrong:
            return wrong
        finally:
            self._renew(claim)

    def _renew(self, claim: Claim) -> None:
        """Lengthen the lease now that an image is decided, if that is due."""
        with self._renewing:
            if time.monotonic() - self._renewed > self.lease_seconds / 4:
                self._persist(lambda: leases.renew(self.db, claim, self.lease_seconds))
                self._renewed = time.monotonic()

    def _persist(self, act: Callable[[], T]) -> T:
        return self.db.retry(act)


def _failed(work: ClaimedItem, wrong: ImageError) -> Outcome:
    return Outcome(work, ItemState.FAILED, reason=wrong.reason, detail=wrong.detail)


def _read_ahead(source: Iterator[Ready], ahead: int) -> Iterator[Ready]:
    """Run an iterator on a thread of its own, `ahead` results in advance; its exceptions come out here."""
    results: queue.Queue[Ready | BaseException | None] = queue.Queue(maxsize=ahead)
    given_up = threading.Event()

    def put(result: Ready | BaseException | None) -> bool:
        while not given_up.is_set():
            try:
                results.put(result, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for result in source:
                if not put(result):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        given_up.set()
        thread.join()
