"""Submit: walk folders, register the files in a job, then close its registration.

Every transaction registers files of one root. Workers are woken only after their rows are committed.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.paths import is_below, text_of
from captioning.settings import Settings
from captioning.store import files, jobs
from captioning.store.database import Database
from captioning.store.files import FileIdSet, FoundFile, ReusePolicy, RootPath
from captioning.store.preview import count_other_options
from captioning.values import DecodeOptions, digest_of
from producer.sources import SILENT, Filters, ImageFinder, SourceReport, Sources, describe_skipped

FILES_PER_TRANSACTION = 2000
_MAX_CACHED_FOLDERS = 100_000  # that the lookup of roots remembers


@dataclass(frozen=True)
class SubmitRequest:
    """What a person asks for with `submit`."""

    sources: Sources
    filters: Filters
    bundle: Bundle
    options: DecodeOptions
    name: str = ""
    priority: int = 0
    stale: bool = False
    force: bool = False
    limit: int | None = None
    report: SourceReport = SILENT  # is told what is not taken

    def finder(self, report: SourceReport | None = None) -> ImageFinder:
        """Return a search for the images."""
        return ImageFinder(self.sources, self.filters, report or self.report)


@dataclass
class Submitted:
    """The progress of a submit, in files."""

    job: int
    continued: bool
    known: int = 0
    other_options: int = 0  # of the known files: those whose captions were made with other options than asked for
    queued: int = 0
    skipped: Counter[str] | None = None

    @property
    def scanned(self) -> int:
        return self.known + self.queued


def submit(
    db: Database,
    settings: Settings,
    request: SubmitRequest,
    on_commit: Callable[[Submitted], None],
    files_per_transaction: int = FILES_PER_TRANSACTION,
) -> Submitted:
    """Register a job's files and close its registration. `on_commit` is called after each transaction.

    Raises UsageError when there are no images.
    """
    _refuse_empty(request)
    model_id = jobs.register_model(db, request.bundle, default=settings.model)
    for folder in _folders_in_roots(request.sources):
        files.ensure_root(db, folder)
    job_id, continued = jobs.open_job(db, _job_request(request), model_id)
    submitted = Submitted(job_id, continued)
    policy = ReusePolicy(model_id, request.bundle.name, request.stale, request.force)
    finder = request.finder()
    seen = FileIdSet()
    found = islice(finder, request.limit)
    for root_id, group in _by_root(files.roots(db), found, files_per_transaction):
        act = functools.partial(files.register, db, job_id, root_id, group, policy, settings.chunk_size)
        registered = db.retry(act)
        for file_id in registered.file_ids:
            seen.add(file_id)
        submitted.known += registered.known
        if registered.known:
            submitted.other_options += count_other_options(db, registered.file_ids, policy, request.options.digest)
        submitted.queued += len(group) - registered.known
        on_commit(submitted)
    if request.limit is None:  # a limited walk ends early, and to look up the rest would take as long as a whole walk
        for folder in request.sources.folders:
            files.mark_missing(db, folder, seen)
    submitted.skipped = finder.skipped
    warn_of_patterns(request, finder)
    db.retry(functools.partial(jobs.close_registration, db, job_id, submitted.known, dict(submitted.skipped)))
    return submitted


def _refuse_empty(request: SubmitRequest) -> None:
    """Raise UsageError, with what was skipped, when there are no images: no job is created then."""
    if next(iter(request.finder(SILENT)), None) is not None:
        return
    finder = request.finder()
    for _ in finder:  # once more, for the report
        pass
    reasons = f" (skipped: {describe_skipped(finder.skipped)})" if finder.skipped else ""
    raise UsageError(f"no images found{reasons}. {'. '.join((*finder.unmatched, hint_without_images(finder.skipped)))}")


def hint_without_images(skipped: Mapping[str, int]) -> str:
    """Return what a person can do when no images were found."""
    if any(category.endswith(" archive") for category in skipped):
        return "Unpack archives first."
    return "A file that is named on the command line is accepted whatever its extension."


def warn_of_patterns(request: SubmitRequest, finder: ImageFinder) -> None:
    """Tell the person which patterns matched nothing."""
    for sentence in finder.unmatched:
        request.report.warn(sentence)


def _folders_in_roots(sources: Sources) -> Iterator[bytes]:
    """Yield the folders that roots must cover: those to walk, and the deepest one that holds all named files."""
    yield from sources.folders
    parents = {os.path.dirname(path) for path in sources.files}
    if parents:
        common = os.path.commonpath(parents)
        yield from [common] if common != b"/" else sorted(parents)


def _by_root(roots: list[RootPath], found: Iterable[FoundFile], limit: int) -> Iterator[tuple[int, list[FoundFile]]]:
    """Group files by the deepest root that holds them. Yields a root's id and files with paths below the root."""
    groups: dict[int, list[FoundFile]] = {}
    root_of: dict[bytes, RootPath] = {}
    for file in found:
        folder = os.path.dirname(file.path)
        if folder not in root_of:
            if len(root_of) > _MAX_CACHED_FOLDERS:
                root_of.clear()
            root_of[folder] = next(root for root in roots if is_below(folder, root.path))
        root = root_of[folder]
        group = groups.setdefault(root.id, [])
        group.append(FoundFile(file.path[len(root.path.rstrip(b"/")) + 1 :], file.size, file.mtime_ns))
        if len(group) == limit:
            yield root.id, groups.pop(root.id)
    yield from groups.items()


def _job_request(request: SubmitRequest) -> jobs.JobRequest:
    """Return the job to open. Two submits with the same paths, filters, model and options have the same key."""
    paths = [sorted(path.hex() for path in group) for group in (request.sources.folders, request.sources.files)]
    terms = [
        asdict(request.filters),
        request.bundle.digest,
        request.options.digest,
        request.stale,
        request.force,
        request.limit,
    ]
    name = request.name or _default_name(request.sources)
    return jobs.JobRequest(digest_of([paths, terms]), name, request.options, request.priority, request.force)


def _default_name(sources: Sources) -> str:
    first = (sources.folders or sources.files)[0]
    more = len(sources.folders) + len(sources.files) - 1
    return text_of(first).rstrip("/").rpartition("/")[2] + (f" and {more} more" if more else "")
