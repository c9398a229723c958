"""Small worlds for store tests: a job with files, outcomes without a model."""

from collections.abc import Sequence

from captioning.bundles import find_bundles
from captioning.paths import is_below
from captioning.store import files, jobs, leases
from captioning.store.database import Database
from captioning.store.files import FoundFile, Registered, ReusePolicy
from captioning.store.leases import Claim, Content, Outcome, Provenance, ClaimedItem
from captioning.values import Alternative, Caption, DecodeOptions, ImageInfo, ItemState, Reason

PROVENANCE = Provenance("torch", "fp32", "test")
LSTM = find_bundles()["flickr8k-lstm"]
GRU = find_bundles()["flickr8k-gru"]
LEASE = 60.0


class World:
    """A database with a root, and what a producer and workers would do to it."""

    def __init__(self, db: Database, root: bytes = b"/photos") -> None:
        self.db = db
        self.model = jobs.register_model(db, LSTM, default=LSTM.name)
        files.ensure_root(db, root)
        self.root = self.root_of(root)

    def root_of(self, path: bytes) -> int:
        return next(root.id for root in files.roots(self.db) if is_below(path, root.path))

    def job(self, key: str = "k", priority: int = 0, model: int | None = None, force: bool = False) -> int:
        request = jobs.JobRequest(key, key, DecodeOptions(), priority, force)
        return jobs.open_job(self.db, request, model or self.model)[0]

    def register(self, job: int, found: Sequence[FoundFile], chunk: int = 4, **known: bool) -> Registered:
        terms = ReusePolicy(self.model, LSTM.name, known.get("stale", False), known.get("force", False))
        return files.register(self.db, job, self.root, found, terms, chunk)

    def submit(self, count: int, key: str = "k", chunk: int = 4, **options: int) -> int:
        job = self.job(key, **options)
        self.register(job, [FoundFile(b"%s-%d.jpg" % (key.encode(), i), 100 + i, 1) for i in range(count)], chunk)
        jobs.close_registration(self.db, job, 0, {})
        return job

    def claim(self, worker: str = "w1", lease: float = LEASE) -> Claim | None:
        return leases.claim(self.db, worker, [LSTM.digest, GRU.digest], [self.root], lease)

    def commit_batch(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        leases.commit_batch(self.db, claim, outcomes, PROVENANCE, LEASE)

    def process_chunk(self, claim: Claim, text: str = "a dog runs") -> None:
        self.commit_batch(claim, [captioned(item, text) for item in claim.items])
        leases.complete(self.db, claim)

    def progress(self, job: int) -> jobs.Progress:
        return jobs.progress(self.db, job)[0]


def sha(item: ClaimedItem) -> str:
    return f"{item.file_id:064x}"


def captioned(item: ClaimedItem, text: str = "a dog runs", content: str | None = None) -> Outcome:
    logps = tuple(-0.5 for _ in range(len(text.split()) + 1))
    said = Caption(text, logps, (Alternative("a cat", -9.0),), 0.6)
    facts = ImageInfo(640, 480, "JPEG")
    return Outcome(item, ItemState.CAPTIONED, Content(content or sha(item), item.size, facts), said)


def failed(item: ClaimedItem, reason: Reason = Reason.TRUNCATED) -> Outcome:
    return Outcome(item, ItemState.FAILED, reason=reason, detail="cut short")
