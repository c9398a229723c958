"""Made-up rows for `benchmarks.store`: files as a walk finds them, and captions as a model writes them."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import sqlalchemy as sa

from captioning.bundles import find_bundles
from captioning.features import DIMENSIONS, THUMBNAIL_BYTES
from captioning.store import files, jobs
from captioning.store.claims import ClaimedItem
from captioning.store.database import Database
from captioning.store.files import FoundFile, ReusePolicy
from captioning.store.outcomes import Content, Outcome
from captioning.values import Alternative, Caption, DecodeOptions, ImageInfo, ItemState
from tests.faults.stub_captioner import expected_caption

MODEL = find_bundles()["lstm"]
LEASE_SECONDS = 300.0
_PAGE = 20_000
T = TypeVar("T")
_ALTERNATIVES = 2  # a beam of three has two hypotheses besides the best one


@dataclass(frozen=True)
class Rows:
    """A database with a model, a root and a job."""

    db: Database
    model_id: int
    root_id: int
    job: int

    @classmethod
    def create(cls, db: Database) -> "Rows":
        """Create them, or find those that are there."""
        model_id = jobs.register_model(db, MODEL, default=MODEL.name)
        files.ensure_root(db, b"/photos")
        job, _ = jobs.open_job(db, jobs.JobRequest("key", "photos", DecodeOptions()), model_id)
        return cls(db, model_id, files.roots(db)[0].id, job)

    def register(self, found: Sequence[FoundFile], chunk_size: int) -> None:
        """Register some files in one transaction."""
        policy = ReusePolicy(self.model_id, MODEL.name, stale=False, force=False)
        files.register(self.db, self.job, self.root_id, found, policy, chunk_size)

    def register_all(self, found: Iterable[FoundFile], chunk_size: int) -> None:
        """Register files as `producer submit` does."""
        for part in batched(found, 2000):
            self.register(part, chunk_size)

    def results(self) -> Iterator[list[dict[str, object]]]:
        """Yield what workers would write about all items, page by page, as `scale_prefill.write_results` takes it."""
        query = sa.text("SELECT id, file_id, chunk_id FROM items WHERE id > :last ORDER BY id LIMIT :page")
        last = 0
        while True:
            with self.db.reading() as connection:
                page = connection.execute(query, {"last": last, "page": _PAGE}).all()
            if not page:
                return
            last = page[-1].id
            yield [
                {"item": item, "file": file, "chunk": chunk, "state": "captioned", "sha256": (sha := sha256_of(file)),
                 "caption": expected_caption(sha), "size": 100_000}
                for item, file, chunk in page
            ]  # fmt: skip


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield values in lists of a size."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


def found_files(number: int, start: int = 0) -> Iterator[FoundFile]:
    """Yield files as a walk sees them: 500 in a folder, sizes of camera images, one mount."""
    for n in range(start, start + number):
        path = b"2024/%04d-holiday/IMG_%08d.jpg" % (n // 500, n)
        mtime = 1_700_000_000_000_000_000 + n * 7_919_000_003
        yield FoundFile(path, 2_000_000 + n * 7919 % 3_000_000, mtime, mtime + 1, "/dev/vda ext4 / /")


def sha256_of(file_id: int) -> str:
    return hashlib.sha256(b"%d" % file_id).hexdigest()


def outcomes_of(items: Sequence[ClaimedItem]) -> list[Outcome]:
    """Return what a worker knows after it has captioned these items."""
    return [_outcome(item) for item in items]


def _outcome(item: ClaimedItem) -> Outcome:
    numbers = random.Random(item.file_id)  # the same file gets the same caption
    sha256 = sha256_of(item.file_id)
    text = expected_caption(sha256) + " with a red ball"
    words = len(text.split()) + 1
    caption = Caption(
        text,
        tuple(-3 * numbers.random() for _ in range(words)),
        tuple(Alternative(f"{text} {n}", -10 * numbers.random()) for n in range(_ALTERNATIVES)),
        confidence=numbers.random(),
        unlike=False,
        vector=numbers.randbytes(DIMENSIONS),
    )
    info = ImageInfo(4000, 3000, "JPEG", sha256[:32])
    content = Content(sha256, item.size, info)
    return Outcome(item, ItemState.CAPTIONED, content, caption, thumbnail=numbers.randbytes(THUMBNAIL_BYTES))
