"""A driver for store tests: it does what producers and workers do to a database, with made-up files and captions."""

from collections.abc import Iterator, Sequence

from captioning.bundles import find_bundles
from captioning.paths import is_below
from captioning.store import claims, files, jobs, leases, results
from captioning.store.claims import Claim, ClaimedItem
from captioning.store.database import Database
from captioning.store.files import FoundFile, Registered, ReusePolicy
from captioning.store.outcomes import Content, Outcome, Provenance
from captioning.values import Alternative, Caption, DecodeOptions, ImageInfo, ItemState, Reason

PROVENANCE = Provenance("torch", "fp32", "test")
LSTM = find_bundles()["lstm"]
GRU = find_bundles()["gru"]
LEASE_SECONDS = 60.0


class StoreDriver:
    """A database with one model and one root, and the calls that producers and workers make to it."""

    def __init__(self, db: Database, root: bytes = b"/photos") -> None:
        self.db = db
        self.model_id = jobs.register_model(db, LSTM, default=LSTM.name)
        files.ensure_root(db, root)
        self.root_id = self.find_root(root)

    def find_root(self, path: bytes) -> int:
        """Return the id of the root that a path belongs to."""
        return next(root.id for root in files.roots(self.db) if is_below(path, root.path))

    def open_job(self, key: str = "k", priority: int = 0, model_id: int | None = None, force: bool = False) -> int:
        request = jobs.JobRequest(key, key, DecodeOptions(), priority, force)
        return jobs.open_job(self.db, request, model_id or self.model_id)[0]

    def register(
        self, job: int, found: Sequence[FoundFile], chunk_size: int = 4, *, stale: bool = False, force: bool = False
    ) -> Registered:
        policy = ReusePolicy(self.model_id, LSTM.name, stale, force)
        return files.register(self.db, job, self.root_id, found, policy, chunk_size)

    def submit(
        self, count: int, key: str = "k", chunk_size: int = 4, *, priority: int = 0, model_id: int | None = None
    ) -> int:
        """Open a job for `count` files, named after the key; register all of them; return the job's id."""
        job = self.open_job(key, priority, model_id)
        found = [FoundFile(b"%s-%d.jpg" % (key.encode(), i), 100 + i, 1) for i in range(count)]
        self.register(job, found, chunk_size)
        jobs.close_registration(self.db, job, 0, {})
        return job

    def try_claim(self, worker: str = "w1", lease_seconds: float = LEASE_SECONDS) -> Claim | None:
        return claims.claim(self.db, worker, [LSTM.digest, GRU.digest], [self.root_id], lease_seconds)

    def claim(self, worker: str = "w1", lease_seconds: float = LEASE_SECONDS) -> Claim:
        """Claim a chunk. Fail the test when there is none."""
        claim = self.try_claim(worker, lease_seconds)
        assert claim is not None
        return claim

    def claim_all(self, worker: str = "w1") -> Iterator[Claim]:
        """Claim chunks until there are no more."""
        while (claim := self.try_claim(worker)) is not None:
            yield claim

    def commit_batch(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        results.commit_batch(self.db, claim, outcomes, PROVENANCE, LEASE_SECONDS)

    def process_chunk(self, claim: Claim, text: str = "a dog runs") -> None:
        """Caption every item of a chunk and complete it."""
        self.commit_batch(claim, [captioned(item, text) for item in claim.items])
        leases.complete(self.db, claim)

    def progress(self, job: int) -> jobs.Progress:
        return jobs.progress(self.db, job)[0]


def sha256_of(item: ClaimedItem) -> str:
    """Return a made-up digest, another one for each file."""
    return f"{item.file_id:064x}"


def captioned(item: ClaimedItem, text: str = "a dog runs", sha256: str | None = None) -> Outcome:
    """Return the outcome of an item on which the model ran."""
    log_probabilities = tuple(-0.5 for _ in range(len(text.split()) + 1))
    caption = Caption(text, log_probabilities, (Alternative("a cat", -9.0),), 0.6, unlike=True)
    content = Content(sha256 or sha256_of(item), item.size, ImageInfo(640, 480, "JPEG"))
    return Outcome(item, ItemState.CAPTIONED, content, caption)


def failed(item: ClaimedItem, reason: Reason = Reason.TRUNCATED) -> Outcome:
    return Outcome(item, ItemState.FAILED, reason=reason, detail="cut short", is_permanent=True)
