"""Small worlds for store tests: a job with files, outcomes without a model."""

from collections.abc import Sequence

from captioning.bundles import find_bundles
from captioning.paths import is_below
from captioning.store import claims, files, jobs
from captioning.store.claims import Claim, Content, MadeBy, Outcome, Work
from captioning.store.database import Database
from captioning.store.files import Found, Known, Registered
from captioning.values import Alternative, Caption, DecodeOptions, ItemState, PictureFacts, Reason

MADE_BY = MadeBy("torch", "fp32", "test")
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
        request = jobs.Request(key, key, DecodeOptions(), priority, force)
        return jobs.open_job(self.db, request, model or self.model)[0]

    def register(self, job: int, found: Sequence[Found], chunk: int = 4, **known: bool) -> Registered:
        terms = Known(self.model, LSTM.name, known.get("stale", False), known.get("force", False))
        return files.register(self.db, job, self.root, found, terms, chunk)

    def submit(self, count: int, key: str = "k", chunk: int = 4, **options: int) -> int:
        job = self.job(key, **options)
        self.register(job, [Found(b"%s-%d.jpg" % (key.encode(), i), 100 + i, 1) for i in range(count)], chunk)
        jobs.close_registration(self.db, job, 0, {})
        return job

    def claim(self, worker: str = "w1", lease: float = LEASE) -> Claim | None:
        return claims.claim(self.db, worker, [LSTM.digest, GRU.digest], [self.root], lease)

    def record(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        claims.record(self.db, claim, outcomes, MADE_BY, LEASE)

    def work_off(self, claim: Claim, text: str = "a dog runs") -> None:
        self.record(claim, [captioned(work, text) for work in claim.work])
        claims.finish(self.db, claim)

    def progress(self, job: int) -> jobs.Progress:
        return jobs.progress(self.db, job)[0]


def sha(work: Work) -> str:
    return f"{work.file_id:064x}"


def captioned(work: Work, text: str = "a dog runs", content: str | None = None) -> Outcome:
    logps = tuple(-0.5 for _ in range(len(text.split()) + 1))
    said = Caption(text, logps, (Alternative("a cat", -9.0),), 0.6)
    facts = PictureFacts(640, 480, "JPEG")
    return Outcome(work, ItemState.CAPTIONED, Content(content or sha(work), work.size, facts), said)


def failed(work: Work, reason: Reason = Reason.TRUNCATED) -> Outcome:
    return Outcome(work, ItemState.FAILED, reason=reason, detail="cut short")
