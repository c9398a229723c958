"""A worker's place of work: its models, its decode_pool, its way to the database. One in each pool process."""

import functools
import os
from contextlib import suppress

from captioning import __version__
from captioning.bundles import named
from captioning.decoding.pool import DecodePool
from captioning.errors import CaptioningError, DeviceFailed, FolderUnavailable, LeaseLost, StoreUnavailable
from captioning.model.pixels import Limits
from captioning.model.runtime import choose
from captioning.settings import Settings, read_settings
from captioning.store import leases
from captioning.store.database import Database
from captioning.store.leases import Claim, Provenance
from worker.adaptive_batch import AdaptiveBatch
from worker.environment import Place, available_bundles, stopping, visible_roots, worker_name
from worker.model_cache import ModelCache
from worker.pipeline import BACKOFF_SECONDS, Pipeline


class Runner:
    """What a pool process works with. Made once, the default model loaded and warm."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = worker_name(settings)
        self.db = Database.open(settings)
        bundles = available_bundles(settings)
        self.models = ModelCache.of(bundles, choose(settings.runtime, settings.device), settings.data_dir / "runtime")
        default = named(settings.model, bundles)
        size = self.models.captioner(default.digest).preprocessing.size
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = settings.decode_processes or max(1, cores - 1)
        limits = Limits(settings.max_pixels, settings.max_side, settings.max_frames)
        self.decode_pool = DecodePool(count, size, limits, settings.decode_timeout_seconds)
        self.adaptive_batch = AdaptiveBatch()
        self.places: dict[int, Place] = {}
        with suppress(StoreUnavailable):  # then leases do it
            leases.release_held_by(self.db, self.name, counts_as_attempt=True)  # a process before this one died at work

    @property
    def lease_seconds(self) -> float:
        """Longer than anything without progress: opening one image, or captioning a micro-batch on a slow machine.

        If those were longer than leases, two such machines would take chunks from each other for ever.
        """
        least = max(self.settings.lease_seconds, 1.5 * self.settings.decode_timeout_seconds)
        return max(least, min(3 * self.adaptive_batch.seconds, 20 * least))

    def claim(self) -> Claim | None:
        """Take the best chunk that this worker can do. Raises StoreUnavailable."""
        if stopping():
            return None

        def act() -> Claim | None:
            self.places = visible_roots(self.db, self.settings)
            return leases.claim(self.db, self.name, list(self.models.bundles), list(self.places), self.lease_seconds)

        return self.db.retry(act)

    def process_chunk(self, claim: Claim) -> None:
        """Caption a chunk to its end, or give the rest back when asked to stop or when its root goes away.

        Raises LeaseLost, ServiceUnavailable, BundleError, and whatever a bug raises.
        """
        provenance = Provenance(self.models.runtime.name, self.models.runtime.precision, __version__)
        try:
            captioner = self.models.captioner(claim.model_digest)
            pipeline = Pipeline(
                self.db,
                self.settings,
                captioner,
                self.decode_pool,
                self.adaptive_batch,
                provenance,
                self.places[claim.root_id].path,
                self.lease_seconds,
            )
            whole = pipeline.run(claim, stopping)
        except (LeaseLost, StoreUnavailable):
            raise  # it isn't ours any more, or nobody can be told
        except DeviceFailed as broken:
            self._commit(functools.partial(leases.release, self.db, claim, counts_as_attempt=True, error=str(broken)))
            raise
        except CaptioningError as error:  # a folder that has gone, no memory: others go first, then it is tried again
            waited = isinstance(error, FolderUnavailable)
            back = functools.partial(leases.release, self.db, claim, BACKOFF_SECONDS, defer=waited, error=str(error))
            self._commit(back)
            raise
        except Exception as bug:  # of this work perhaps
            said = f"{type(bug).__name__}: {bug}"
            self._commit(functools.partial(leases.release, self.db, claim, BACKOFF_SECONDS, counts_as_attempt=True, error=said))
            raise
        self._commit(functools.partial(leases.complete if whole else leases.release, self.db, claim))

    def claimable_chunks(self) -> int:
        """Return how many bells should be ringing for what is still to do."""
        if stopping():
            return 0
        return leases.count_claimable(self.db, list(self.models.bundles), list(self.places), self.settings.queue_window)

    def close(self) -> None:
        """End the decode_pool and the connections."""
        self.decode_pool.close()
        self.db.close()

    def _commit(self, act: functools.partial[None]) -> None:
        self.db.retry(act)


@functools.cache
def station() -> Runner:
    """Return this process's station, made at the first call."""
    return Runner(read_settings())
