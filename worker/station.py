"""A worker's place of work: its models, its openers, its way to the database. One in each pool process."""

import functools
import os
from contextlib import suppress

from captioning import __version__
from captioning.bundles import named
from captioning.errors import CaptioningError, DeviceBroken, StoreUnavailable
from captioning.model.pixels import Limits
from captioning.model.runtime import choose
from captioning.settings import Settings, read_settings
from captioning.store import claims
from captioning.store.claims import Claim, Fenced, MadeBy
from captioning.store.database import Database
from worker.device import Portions
from worker.models import Models
from worker.openers import Openers
from worker.pipeline import REST_SECONDS, Pipeline
from worker.reading import FolderUnavailable
from worker.surroundings import Place, bundles_at_hand, stopping, visible_roots, worker_name


class Station:
    """What a pool process works with. Made once, the default model loaded and warm."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = worker_name(settings)
        self.db = Database(settings.store_url)
        bundles = bundles_at_hand(settings)
        self.models = Models.of(bundles, choose(settings.runtime, settings.device), settings.data_dir / "runtime")
        default = named(settings.model, bundles)
        size = self.models.captioner(default.digest).preprocessing.size
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = settings.decoders or max(1, cores - 1)
        limits = Limits(settings.max_pixels, settings.max_side, settings.max_frames)
        self.openers = Openers(count, size, limits, settings.picture_seconds)
        self.portions = Portions()
        self.places: dict[int, Place] = {}
        with suppress(StoreUnavailable):  # then leases do it
            claims.release_all_of(self.db, self.name, crashed=True)  # a process before this one died at work

    @property
    def lease_seconds(self) -> float:
        """Longer than anything without progress: opening one picture, or captioning a micro-batch on a slow machine.

        If those were longer than leases, two such machines would take chunks from each other for ever.
        """
        least = max(self.settings.lease_seconds, 1.5 * self.settings.picture_seconds)
        return max(least, min(3 * self.portions.seconds, 20 * least))

    def claim(self) -> Claim | None:
        """Take the best chunk that this worker can do. Raises StoreUnavailable."""
        if stopping():
            return None

        def act() -> Claim | None:
            self.places = visible_roots(self.db, self.settings)
            return claims.claim(self.db, self.name, list(self.models.bundles), list(self.places), self.lease_seconds)

        return self.db.persist(act, self.settings.outage_seconds)

    def work_off(self, claim: Claim) -> None:
        """Caption a chunk to its end, or give the rest back when asked to stop or when its root goes away.

        Raises Fenced, ServiceTrouble, BundleError, and whatever a bug raises.
        """
        made_by = MadeBy(self.models.runtime.name, self.models.runtime.precision, __version__)
        try:
            captioner = self.models.captioner(claim.model_digest)
            pipeline = Pipeline(
                self.db,
                self.settings,
                captioner,
                self.openers,
                self.portions,
                made_by,
                self.places[claim.root_id].path,
                self.lease_seconds,
            )
            whole = pipeline.run(claim, stopping)
        except (Fenced, StoreUnavailable):
            raise  # it isn't ours any more, or nobody can be told
        except DeviceBroken as broken:
            self._commit(functools.partial(claims.release, self.db, claim, crashed=True, trouble=str(broken)))
            raise
        except CaptioningError as trouble:  # a folder that has gone, no memory: others go first, then it is tried again
            waited = isinstance(trouble, FolderUnavailable)
            back = functools.partial(claims.release, self.db, claim, REST_SECONDS, waited=waited, trouble=str(trouble))
            self._commit(back)
            raise
        except Exception as bug:  # of this work perhaps
            said = f"{type(bug).__name__}: {bug}"
            self._commit(functools.partial(claims.release, self.db, claim, REST_SECONDS, crashed=True, trouble=said))
            raise
        self._commit(functools.partial(claims.finish if whole else claims.release, self.db, claim))

    def more_to_do(self) -> int:
        """Return how many bells should be ringing for what is still to do."""
        if stopping():
            return 0
        return claims.count_claimable(self.db, list(self.models.bundles), list(self.places), self.settings.bells)

    def close(self) -> None:
        """End the openers and the connections."""
        self.openers.close()
        self.db.close()

    def _commit(self, act: functools.partial[None]) -> None:
        self.db.persist(act, self.settings.outage_seconds)


@functools.cache
def station() -> Station:
    """Return this process's station, made at the first call."""
    return Station(read_settings())
