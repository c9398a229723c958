"""Submitting: walk, register in batches, close. The rows are committed before any bell rings."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.paths import is_below, text_of
from captioning.settings import Settings
from captioning.store import files, jobs
from captioning.store.database import Database
from captioning.store.files import FileIdSet, FoundFile, ReusePolicy, RootPath
from captioning.values import DecodeOptions, digest_of
from producer.sources import Filters, Sources, Walk, named_file

BATCH = 2000  # files registered in one transaction
_FOLDERS_KNOWN = 100_000  # whose roots are remembered


@dataclass(frozen=True)
class SubmitRequest:
    """What a person asked for."""

    sources: Sources
    filters: Filters
    bundle: Bundle
    options: DecodeOptions
    name: str = ""
    priority: int = 0
    stale: bool = False
    force: bool = False
    limit: int | None = None


@dataclass
class Submitted:
    """What a submit did."""

    job: int
    continued: bool
    known: int = 0
    queued: int = 0
    skipped: Counter[str] | None = None

    @property
    def scanned(self) -> int:
        return self.known + self.queued


def scan(order: SubmitRequest) -> tuple[int, Counter[str]]:
    """Count what a submit would find, for --dry-run: images, and what is skipped by kind."""
    walks: list[Walk] = []
    count = sum(1 for _ in islice(_found(order, walks), order.limit))
    return count, _skipped(walks)


def submit(db: Database, settings: Settings, order: SubmitRequest, on_batch: Callable[[Submitted], None]) -> Submitted:
    """Register a job's files and close its registration; `on_batch` is called after each commit.

    Raises UsageError when there is no image to be found.
    """
    if next(_found(order, []), None) is None:
        walks: list[Walk] = []
        list(_found(order, walks))
        raise UsageError(f"no images found{_passed_over(_skipped(walks))}. Files named explicitly are always taken.")
    model_id = jobs.register_model(db, order.bundle, default=settings.model)
    for folder in _places(order.sources):
        files.ensure_root(db, folder)
    request = jobs.JobRequest(_key(order), order.name or _name(order), order.options, order.priority, order.force)
    job_id, continued = jobs.open_job(db, request, model_id)
    done = Submitted(job_id, continued)
    known = ReusePolicy(model_id, order.bundle.name, order.stale, order.force)
    walks, seen = [], FileIdSet()
    for root_id, batch in _by_root(files.roots(db), islice(_found(order, walks), order.limit)):
        act = functools.partial(files.register, db, job_id, root_id, batch, known, settings.chunk_size)
        registered = db.retry(act)
        for file_id in registered.file_ids:
            seen.add(file_id)
        done.known += registered.known
        done.queued += len(batch) - registered.known
        on_batch(done)
    if order.limit is None and not order.filters.include and not order.filters.exclude:
        for folder in order.sources.folders:
            files.mark_missing(db, folder, seen)
    done.skipped = _skipped(walks)
    close = functools.partial(jobs.close_registration, db, job_id, done.known, dict(done.skipped))
    db.retry(close)
    return done


def _found(order: SubmitRequest, walks: list[Walk]) -> Iterator[FoundFile]:
    """Yield every image, its path absolute; the walks, which count what they skip, are added to `walks`."""
    for folder in order.sources.folders:
        walk = Walk(folder, order.filters)
        walks.append(walk)
        for found in walk:
            yield FoundFile(os.path.join(folder, found.path), found.size, found.mtime_ns)
    for path in order.sources.files:
        yield named_file(path)


def _places(sources: Sources) -> Iterator[bytes]:
    """Return the folders that must lie in roots: those walked, and one that holds all the named files."""
    yield from sources.folders
    homes = {os.path.dirname(path) for path in sources.files}
    if homes:
        common = os.path.commonpath(homes)
        yield from [common] if common != b"/" else sorted(homes)


def _by_root(roots: list[RootPath], found: Iterable[FoundFile]) -> Iterator[tuple[int, list[FoundFile]]]:
    """Yield batches of files, paths below their root, each batch of one root: the deepest that holds the file."""
    waiting: dict[int, list[FoundFile]] = {}
    homes: dict[bytes, RootPath] = {}
    for file in found:
        folder = os.path.dirname(file.path)
        if folder not in homes:
            if len(homes) > _FOLDERS_KNOWN:
                homes.clear()
            homes[folder] = next(root for root in roots if is_below(folder, root.path))
        root = homes[folder]
        batch = waiting.setdefault(root.id, [])
        batch.append(FoundFile(file.path[len(root.path.rstrip(b"/")) + 1 :], file.size, file.mtime_ns))
        if len(batch) == BATCH:
            yield root.id, waiting.pop(root.id)
    yield from waiting.items()


def _skipped(walks: list[Walk]) -> Counter[str]:
    return sum((walk.skipped for walk in walks), Counter())


def _passed_over(skipped: Counter[str]) -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in skipped.most_common())
    return f" (skipped: {kinds})" if kinds else ""


def _key(order: SubmitRequest) -> str:
    """Return what makes two submits the same job: places, filters, model, options."""
    places = [sorted(path.hex() for path in paths) for paths in (order.sources.folders, order.sources.files)]
    how = [asdict(order.filters), order.bundle.digest, order.options.digest, order.stale, order.force, order.limit]
    return digest_of([places, how])


def _name(order: SubmitRequest) -> str:
    first = (order.sources.folders or order.sources.files)[0]
    more = len(order.sources.folders) + len(order.sources.files) - 1
    return text_of(first).rstrip("/").rpartition("/")[2] + (f" and {more} more" if more else "")
