"""Submitting: walk, register in batches, close. The rows are committed before any bell rings."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import TypeVar

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.paths import text_of
from captioning.settings import Settings
from captioning.store import files, jobs
from captioning.store.database import Database
from captioning.store.files import Found, Known, SeenFiles
from captioning.values import DecodeOptions, digest_of
from producer.sources import Filters, Sources, Walk, named_file

BATCH = 2000  # files registered in one transaction
T = TypeVar("T")


@dataclass(frozen=True)
class Order:
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


@dataclass(frozen=True)
class Scope:
    """Some files below a root: those of a folder (`prefix` below the root), or named ones."""

    root_id: int
    prefix: bytes
    found: Iterable[Found]  # paths below the root
    walk: Walk | None


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


def scan(order: Order) -> tuple[int, Counter[str]]:
    """Count what a submit would find, for --dry-run: pictures, and what is skipped by kind."""
    walks = [Walk(folder, order.filters) for folder in order.sources.folders]
    count = sum(1 for _ in islice((f for walk in walks for f in walk), order.limit))
    count += len(
        list(islice(map(named_file, order.sources.files), None if order.limit is None else max(0, order.limit - count)))
    )
    return count, sum((walk.skipped for walk in walks), Counter())


def submit(db: Database, settings: Settings, order: Order, on_batch: Callable[[Submitted], None]) -> Submitted:
    """Register a job's files and close its registration; `on_batch` is called after each commit.

    Raises UsageError when there is no picture to be found.
    """
    model_id = jobs.register_model(db, order.bundle, default=settings.model)
    scopes = list(_scopes(db, order.sources, order.filters))
    request = jobs.Request(_key(order, scopes), order.name or _name(order), order.options, order.priority, order.force)
    first = _first_of(scopes)
    if first is None:
        skipped = _skipped(scopes)
        raise UsageError(f"no pictures found{_passed_over(skipped)}. Files named explicitly are always taken.")
    job_id, continued = jobs.open_job(db, request, model_id)
    done = Submitted(job_id, continued)
    known = Known(model_id, order.bundle.name, order.stale, order.force)
    left = order.limit
    for scope in scopes:
        seen = SeenFiles()
        found = scope.found if left is None else islice(scope.found, left)
        for batch in _batches(found, BATCH):
            registered = files.register(db, job_id, scope.root_id, batch, known, settings.chunk_size)
            for file_id in registered.file_ids:
                seen.add(file_id)
            done.known += registered.known
            done.queued += len(batch) - registered.known
            left = None if left is None else left - len(batch)
            on_batch(done)
        if scope.walk is not None and order.limit is None and not order.filters.include and not order.filters.exclude:
            files.mark_missing(db, scope.root_id, scope.prefix, seen)
    done.skipped = _skipped(scopes)
    jobs.close_registration(db, job_id, done.known, dict(done.skipped))
    return done


def _scopes(db: Database, sources: Sources, filters: Filters) -> Iterator[Scope]:
    for folder in sources.folders:
        root_id, root = files.root_for(db, folder)
        prefix = _below(folder, root)
        walk = Walk(folder, filters)
        yield Scope(root_id, prefix, _Prefixed(walk, prefix), walk)
    by_folder = groupby(sorted(sources.files), key=lambda path: path.rpartition(b"/")[0] or b"/")
    for folder, paths in by_folder:
        root_id, root = files.root_for(db, folder)
        named = [Found(_below(f.path, root), f.size, f.mtime_ns) for f in map(named_file, paths)]
        yield Scope(root_id, b"", named, None)


@dataclass(frozen=True)
class _Prefixed:
    """A walk of a folder as seen from the root that holds it."""

    walk: Walk
    prefix: bytes

    def __iter__(self) -> Iterator[Found]:
        for found in self.walk:
            path = self.prefix + b"/" + found.path if self.prefix else found.path
            yield Found(path, found.size, found.mtime_ns)


def _below(path: bytes, root: bytes) -> bytes:
    return path[len(root.rstrip(b"/")) + 1 :]


def _first_of(scopes: list[Scope]) -> Found | None:
    """Return any picture at all, by walking just so far."""
    first = next((found for scope in scopes for found in scope.found), None)
    if first is not None:
        for scope in scopes:
            if scope.walk is not None:
                scope.walk.skipped.clear()  # the walk proper counts again
    return first


def _skipped(scopes: list[Scope]) -> Counter[str]:
    return sum((scope.walk.skipped for scope in scopes if scope.walk is not None), Counter())


def _passed_over(skipped: Counter[str]) -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in skipped.most_common())
    return f" (skipped: {kinds})" if kinds else ""


def _key(order: Order, scopes: list[Scope]) -> str:
    """Return what makes two submits the same job: roots, filters, model, options."""
    places = [[scope.root_id, scope.prefix.hex()] for scope in scopes if scope.walk is not None]
    named = [
        [scope.root_id, digest_of(sorted(f.path.hex() for f in scope.found))] for scope in scopes if scope.walk is None
    ]
    how = [asdict(order.filters), order.bundle.digest, order.options.digest, order.stale, order.force, order.limit]
    return digest_of([sorted(places), sorted(named), how])


def _name(order: Order) -> str:
    first = (order.sources.folders or order.sources.files)[0]
    more = len(order.sources.folders) + len(order.sources.files) - 1
    return text_of(first).rstrip("/").rpartition("/")[2] + (f" and {more} more" if more else "")


def _batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(things)
    while batch := list(islice(iterator, size)):
        yield batch
