"""What a pool process works with: models, decode processes, database. It claims chunks and says how each ends."""

import functools
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import structlog

from captioning import __version__
from captioning.bundles import named
from captioning.decoding.capability import capability_of
from captioning.decoding.pool import MODULE, DecodePool, open_pool
from captioning.environment import available_cores
from captioning.errors import CaptioningError, DeviceFailed, FolderUnavailable, LeaseLost, StoreFault, StoreUnavailable
from captioning.features import VERSION as FEATURES_VERSION
from captioning.model.descriptions import preprocessing_of
from captioning.settings import Settings, read_settings
from captioning.store import claims, leases
from captioning.store.claims import Claim
from captioning.store.database import Database
from captioning.store.outcomes import Provenance
from captioning.values import ItemState
from worker.adaptive_batch import AdaptiveBatch
from worker.batch_climb import MAX_SECONDS
from worker.chunk_work import TURN_SECONDS, ChunkConfig, ChunkWork, Resources
from worker.contents_in_flight import ContentsInFlight
from worker.environment import MountedRoot, available_bundles, stop_requested, visible_roots, worker_name
from worker.file_reader import FileReader
from worker.pipeline import Pipeline
from worker.stages import Stages

if TYPE_CHECKING:  # imports torch
    from worker.model_cache import ModelCache

log = structlog.get_logger(__name__)
FIRST_IMAGES = 8  # that are decoded before the first batch of a worker, so that the first captions come sooner
BACKOFF_SECONDS = 15.0  # that a chunk waits after a failure, before it is claimed again
DECODE_MODULE = MODULE  # that decode processes run; the fault tests set another one
SWITCH_SECONDS = 0.0005  # that a thread keeps Python's lock while others want it; the driver of decoding needs it often
ROOTS_SECONDS = 1.0  # for which roots count as visible, unless there is nothing to claim in them
BATCHES_PER_LEASE = 3  # a lease outlasts this many batches of a slow machine...
MAX_LEASE_FACTOR = 20  # ... up to this many times the effective lease


@dataclass(frozen=True)
class Disposition:
    """What happens to a chunk when its processing ends with an exception."""

    release: bool = True  # return the rest to the queue; otherwise its lease expires
    counts_as_attempt: bool = False  # the work itself may be the cause; the backoff grows with each attempt
    defer: bool = False  # move it behind all other chunks of its job
    backs_off: bool = False  # for BACKOFF_SECONDS
    message: Callable[[Exception], str] = str  # what `producer status` shows


def _with_type(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


DISPOSITIONS: tuple[tuple[type[Exception], Disposition], ...] = (  # the first match wins
    (LeaseLost, Disposition(release=False)),  # another worker has it, or its job was cancelled
    (StoreUnavailable, Disposition(release=False)),  # it cannot be released without the database
    (StoreFault, Disposition(counts_as_attempt=True, backs_off=True)),  # of one image's data, for example
    (DeviceFailed, Disposition(counts_as_attempt=True)),
    (FolderUnavailable, Disposition(defer=True, backs_off=True)),
    (CaptioningError, Disposition(backs_off=True)),  # out of memory, for example: other chunks go first
    (Exception, Disposition(counts_as_attempt=True, backs_off=True, message=_with_type)),  # a bug, or a hostile image
)


def disposition_of(error: Exception) -> Disposition:
    """Return what happens to a chunk that ended with this exception."""
    return next(disposition for error_type, disposition in DISPOSITIONS if isinstance(error, error_type))


@dataclass
class Runner:
    """One per pool process."""

    settings: Settings
    name: str  # of the worker
    db: Database
    models: "ModelCache"
    start_decode_pool: Callable[[int], DecodePool]  # for an image size in pixels
    files: FileReader
    decode_pools: dict[int, DecodePool] = field(default_factory=dict)  # by image size
    roots: dict[int, MountedRoot] = field(default_factory=dict)  # visible a moment ago, by id
    _looked_at: float = -inf  # for roots, seconds
    adaptive_batch: AdaptiveBatch = field(init=False)
    _in_flight: ContentsInFlight = field(default_factory=ContentsInFlight)
    _has_released: bool = False

    @property
    def stages(self) -> Stages:
        """How long each stage of this worker's work has taken."""
        return self.models.stages

    def __post_init__(self) -> None:
        most_seconds = min(MAX_SECONDS, self.settings.effective_lease_seconds / BATCHES_PER_LEASE**2)
        device = self.models.runtime.device
        self.adaptive_batch = AdaptiveBatch(self.settings.batch_size, device, most_seconds, self.stages)

    @classmethod
    def open(cls, settings: Settings) -> "Runner":
        """Load the default model, while a decode process starts. The database may not be there yet."""
        sys.setswitchinterval(SWITCH_SECONDS)
        bundles = available_bundles(settings)
        default = named(settings.model, bundles)
        count = settings.decode_processes or max(1, available_cores() - 1)

        def start_decode_pool(size: int) -> DecodePool:
            return open_pool(settings, size, count, module=DECODE_MODULE)

        size = preprocessing_of(default).size
        pools = {size: start_decode_pool(size)}
        pools[size].start_early()
        from captioning.model.runtime import choose_runtime  # imports torch, which takes as long as all before
        from worker.model_cache import ModelCache

        runtime = choose_runtime(settings.runtime, settings.device, settings.precision, settings.compile)
        models = ModelCache.of(bundles, runtime, settings.model_cache)
        models.captioner(default.digest)
        db, files = Database.open(settings), FileReader(settings)
        return cls(settings, worker_name(settings), db, models, start_decode_pool, files, pools)

    @property
    def lease_seconds(self) -> float:
        """The lease, longer than anything without progress: decoding one image, or captioning a batch.

        With a shorter lease, two slow machines would take chunks from each other without end.
        """
        least = self.settings.effective_lease_seconds
        return max(least, min(BATCHES_PER_LEASE * self.adaptive_batch.seconds, MAX_LEASE_FACTOR * least))

    def stop_requested(self) -> bool:
        return stop_requested(self.settings)

    def claim(self) -> Claim | None:
        """Claim the next chunk that this worker can process, if there is one. Raises StoreUnavailable."""
        if self.stop_requested():
            return None

        is_recent = time.monotonic() - self._looked_at < ROOTS_SECONDS
        return (self.db.retry(self._claim) if is_recent else None) or self.db.retry(self._look_and_claim)

    def _look_and_claim(self) -> Claim | None:
        self.roots = visible_roots(self.db, self.settings)
        self._looked_at = time.monotonic()
        return self._claim()

    def _claim(self) -> Claim | None:
        return claims.claim(self.db, self.name, list(self.models.bundles), list(self.roots), self.lease_seconds)

    def process_chunk(self, claim: Claim) -> None:
        """Process one chunk. Raises what ended the work on it early, after acting on it as DISPOSITIONS says."""
        claims = iter([claim])
        for error in self._work(lambda: next(claims, None), inf):
            raise error

    def work(self, seconds: float, on_claim: Callable[[], object]) -> list[Exception]:
        """Process chunks until none is left, or for some seconds; return what ended the work on some of them early.

        At the first call, chunks that an earlier pool process of this worker held are released: it died. `on_claim` is
        called after each claim. Raises DeviceFailed.
        """
        if not self._has_released:
            with suppress(StoreUnavailable):  # then the leases expire
                leases.release_held_by(self.db, self.name, counts_as_attempt=True)
            self._has_released = True

        def claim() -> Claim | None:
            claimed = self.claim()
            if claimed is not None:
                on_claim()
            return claimed

        return self._work(claim, seconds)

    def _work(self, claim: Callable[[], Claim | None], seconds: float) -> list[Exception]:
        pipeline = Pipeline(
            claim,
            self._open_chunk,
            lambda claimed: self.models.captioner(claimed.model_digest),
            self._finish,
            self.adaptive_batch,
            self.stages,
        )
        return pipeline.run(self.stop_requested, seconds)

    def _finish(self, chunk: ChunkWork, is_done: bool, error: Exception | None) -> Exception | None:
        """Complete or release a chunk; return what ended the work on it early."""
        try:
            if error is not None:
                self._dispose(chunk.claim, error)
            elif is_done:
                self.db.retry(lambda: leases.complete(self.db, chunk.claim))
                _log_done(chunk)
            else:
                self.db.retry(lambda: leases.release(self.db, chunk.claim))
                reason = "a stop was requested" if self.stop_requested() else "its turn is over"
                log.info("chunk_released", reason=reason, items_done=chunk.counts.total())
        except CaptioningError as failure:  # LeaseLost or StoreUnavailable
            error = failure
        if isinstance(error, LeaseLost):
            log.info("lease_lost", error=str(error))
        return error

    def claimable_chunks(self) -> int:
        """Return how many wake-up messages the queue should contain."""
        if self.stop_requested():
            return 0
        return claims.count_claimable(self.db, list(self.models.bundles), list(self.roots), self.settings.queue_window)

    def close(self) -> None:
        """End the decode processes and close the connections."""
        for pool in self.decode_pools.values():
            pool.close()
        self.files.close()
        self.db.close()

    def _open_chunk(self, claim: Claim) -> ChunkWork:
        """Return the work on a chunk. Raises BundleError after releasing the chunk."""
        try:
            bundle = self.models.bundles[claim.model_digest]
            runtime = self.models.runtime.for_bundle(bundle)
            capability = capability_of(self.settings)
            config = ChunkConfig(
                batch_size=self.adaptive_batch.largest,
                # of near-duplicates in a batch the largest is captioned, so they should come together
                first_batch_size=0 if self.adaptive_batch.seconds or claim.skip_near_duplicates else FIRST_IMAGES,
                missing_grace_seconds=self.settings.missing_grace_seconds,
                lease_seconds=self.lease_seconds,
                backoff_seconds=BACKOFF_SECONDS,
                turn_seconds=TURN_SECONDS,
                provenance=Provenance(runtime.name, runtime.precisions, __version__, capability, self._encoder(claim)),
            )
            pool = self.decode_pool(self.models.image_size(claim.model_digest))
            resources = Resources(self.db, pool, self.files, self._in_flight, self.stages)
            return ChunkWork(claim, self.roots[claim.root_id].path, resources, config)
        except Exception as error:
            self._dispose(claim, error)
            raise

    def _encoder(self, claim: Claim) -> str:
        """Identify what computes features: only those of one encoder and one version can be compared."""
        return f"{FEATURES_VERSION}:{self.models.bundles[claim.model_digest].encoder_key}"

    def decode_pool(self, size: int) -> DecodePool:
        """Return the pool that decodes images to this size; start it when it is first needed."""
        if size not in self.decode_pools:
            self.decode_pools[size] = self.start_decode_pool(size)
        return self.decode_pools[size]

    def _dispose(self, claim: Claim, error: Exception) -> None:
        """Act on an exception that ended the work on a chunk. Raises LeaseLost and StoreUnavailable."""
        disposition = disposition_of(error)
        if not disposition.release:
            return
        message = disposition.message(error)
        release = functools.partial(
            leases.release,
            self.db,
            claim,
            BACKOFF_SECONDS if disposition.backs_off else 0.0,
            counts_as_attempt=disposition.counts_as_attempt,
            defer=disposition.defer,
            error=message,
        )
        self.db.retry(release)
        log.info("chunk_released", reason=message)


def _log_done(chunk: ChunkWork) -> None:
    counts, seconds = chunk.counts, time.monotonic() - chunk.started
    log.info(
        "chunk_done",
        captioned=counts[ItemState.CAPTIONED],
        reused=counts[ItemState.REUSED],
        failed=counts[ItemState.FAILED],
        seconds=round(seconds, 3),
    )


@functools.cache
def get_runner() -> Runner:
    """Return the runner of this process, which the first call opens."""
    return Runner.open(read_settings())
