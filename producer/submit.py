"""Submit: walk folders, register the files in a job, then close its registration.

Every transaction registers files of one root. Workers are woken only after their rows are committed.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

from captioning.archives import is_archive, member_path
from captioning.bundles import Bundle
from captioning.errors import ImageError, UsageError
from captioning.mounts import mount_point_of
from captioning.paths import is_below, text_of
from captioning.remote import RemoteStore, root_of
from captioning.settings import Settings
from captioning.store import files, jobs, workers
from captioning.store.database import Database
from captioning.store.files import FoundFile, Registered, ReusePolicy, RootPath
from captioning.store.presence import Absent, FileIdSet, mark_files_missing, mark_missing
from captioning.store.preview import count_other_options
from captioning.terminal import count
from captioning.values import DecodeCapability, DecodeOptions, digest_of
from producer.content import ContentReader
from producer.sources import (
    NO_ACCESS,
    REFUSED,
    SILENT,
    Access,
    Filters,
    ImageFinder,
    SourceReport,
    Sources,
    describe_skipped,
)

FILES_PER_TRANSACTION = 2000
VERIFIED_AT_ONCE = 100  # files that are read before the progress is shown
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
    verify: bool = False
    retry_failed: bool = False
    skip_near_duplicates: bool = False
    limit: int | None = None
    report: SourceReport = SILENT  # receives what is not taken
    access: Access = NO_ACCESS

    def finder(self, report: SourceReport | None = None) -> ImageFinder:
        """Return a search for the images."""
        return ImageFinder(self.sources, self.filters, report or self.report, self.access)


@dataclass
class Submitted:
    """The progress of a submit, in files."""

    job: int
    continued: bool
    model_id: int
    known: int = 0
    other_options: int = 0  # of the known files: those whose captions were made with other options than asked for
    queued: int = 0
    failed_before: int = 0  # files that cannot be decoded, as an earlier job found
    work: int = 0  # items that are pending because of this submit
    skipped: Counter[str] = field(default_factory=Counter)
    absent: Absent = field(default_factory=Absent)
    first_path: bytes = b""  # of those that the person named
    refused: int = 0  # archives that are damaged or larger than the limits

    @property
    def scanned(self) -> int:
        return self.known + self.queued + self.failed_before


def submit(
    db: Database,
    settings: Settings,
    request: SubmitRequest,
    on_commit: Callable[[Submitted], object],
    files_per_transaction: int = FILES_PER_TRANSACTION,
) -> Submitted:
    """Register a job's files and close its registration. `on_commit` is called after each transaction.

    Files of the store that the walk does not find are marked when they are gone. Raises UsageError when there are no
    images.
    """
    _refuse_empty(db, request)
    submitted = open_submit(db, settings, request)
    finder = request.finder()
    found = islice(finder, request.limit)
    seen = register(db, settings, request, submitted, found, on_commit, files_per_transaction)
    submitted.absent = mark_gone(db, request.sources.gone, request.sources.walked, seen, request.access.remote)
    submitted.skipped, submitted.refused = finder.skipped, finder.refused
    warn_of_patterns(request, finder)
    close(db, submitted)
    return submitted


def open_submit(
    db: Database, settings: Settings, request: SubmitRequest, done_within_seconds: float = 0.0
) -> Submitted:
    """Make sure that the model, the roots and the job have rows.

    With `done_within_seconds` it is the job of a watch, which is continued for so long, also when it is done.
    """
    model_id = jobs.register_model(db, request.bundle, default=settings.model)
    for folder in _folders_in_roots(request.sources):
        files.ensure_root(db, folder)
    job_request = _job_request(request, is_watched=done_within_seconds > 0)
    job, continued = jobs.open_job(db, job_request, model_id, done_within_seconds)
    return Submitted(job, continued, model_id, first_path=request.sources.first)


def register(
    db: Database,
    settings: Settings,
    request: SubmitRequest,
    submitted: Submitted,
    found: Iterable[FoundFile],
    on_commit: Callable[[Submitted], object],
    files_per_transaction: int = FILES_PER_TRANSACTION,
) -> FileIdSet:
    """Register files in a job, count them in `submitted`, and return their ids."""
    policy = policy_of(db, settings, request, submitted.model_id)
    seen = FileIdSet()
    for root, group in _by_root(files.roots(db), found, files_per_transaction):
        for registered in _register(db, submitted.job, root, group, policy, settings):
            for file_id in registered.file_ids:
                seen.add(file_id)
            submitted.known += registered.known
            if registered.known:
                submitted.other_options += count_other_options(db, registered.file_ids, policy, request.options.digest)
            submitted.failed_before += registered.failed_before
            submitted.queued += len(registered.file_ids) - registered.known - registered.failed_before
            submitted.work += registered.new + registered.requeued
            on_commit(submitted)
    return seen


def close(db: Database, submitted: Submitted) -> None:
    """Record that the search for a job's files is complete."""
    skipped = dict(submitted.skipped)
    db.retry(lambda: jobs.close_registration(db, submitted.job, submitted.known, skipped, submitted.failed_before))


def policy_of(db: Database, settings: Settings, request: SubmitRequest, model_id: int) -> ReusePolicy:
    """Return which files need no work."""
    return ReusePolicy(
        model_id,
        request.bundle.name,
        request.stale,
        request.force,
        request.verify,
        request.retry_failed,
        _capabilities(db, settings),
    )


def mark_gone(
    db: Database,
    gone: Sequence[bytes],
    folders: Sequence[bytes] = (),
    seen: FileIdSet | None = None,
    remote: RemoteStore | None = None,
) -> Absent:
    """Mark what is gone of all that the store knows: at or below paths that do not exist, and in folders.

    `seen` are files that exist.
    """
    gone = [*gone, *(member_path(path) for path in gone if is_archive(path))]
    absent, unknown = mark_files_missing(db, gone)
    look_up = remote.gone if remote is not None else None
    return absent + mark_missing(db, [*unknown, *folders], seen or FileIdSet(), gone=look_up)


def describe_absent(absent: Absent) -> list[str]:
    """Return sentences about files of the store that are not on disk."""
    sentences = []
    if absent.missing:
        verb = "is" if absent.missing == 1 else "are"
        sentences += [f"{count(absent.missing, 'file')} that {verb} gone from there {verb} marked as missing."]
    points = ", ".join(sorted(map(mount_point_of, absent.mounts))[:3])
    for number, reason in (
        (absent.unmounted, f"the disk that was mounted at {points} is not mounted there now"),
        (absent.unrecorded, "no submit has recorded the disk since an upgrade"),
        (absent.unreadable, f"the folder cannot be read ({absent.error})"),
    ):
        if number:
            files = "1 file is" if number == 1 else f"{number:,} files are"
            sentences += [f"{files} not found, but {reason}: nothing is changed (`producer forget` removes them)."]
    return sentences


def _capabilities(db: Database, settings: Settings) -> tuple[DecodeCapability, ...]:
    """Return what the workers of a job can decode. In embedded mode that is what this installation can."""
    from captioning.decoding.capability import capability_of  # importing Pillow takes a moment

    return (capability_of(settings),) if settings.embedded else tuple(workers.capabilities(db))


def _register(
    db: Database,
    job_id: int,
    root: RootPath,
    group: list[FoundFile],
    policy: ReusePolicy,
    settings: Settings,
) -> Iterator[Registered]:
    """Register files. Where the content must be compared first, they are read, and registered bit by bit."""
    size = settings.chunk_size
    registered = db.retry(lambda: files.register(db, job_id, root.id, group, policy, size))
    yield registered
    unverified = iter(registered.unverified)
    with ContentReader(settings) as reader:
        while part := list(islice(unverified, VERIFIED_AT_ONCE)):
            verified = [_verify(reader, root, file, sha256) for file, sha256 in part]
            yield db.retry(functools.partial(files.register, db, job_id, root.id, verified, policy, size))


def _verify(reader: ContentReader, root: RootPath, found: FoundFile, sha256: str) -> FoundFile:
    """Compare a file with the content that the store knows.

    One that cannot be read counts as unchanged, but its ctime is not stored, so that the next submit compares it again.
    """
    try:
        digest = reader.sha256(root.path.rstrip(b"/") + b"/" + found.path)
        return replace(found, has_stored_content=digest == sha256)
    except (OSError, ImageError):
        return replace(found, has_stored_content=True, ctime_ns=None)


def _refuse_empty(db: Database, request: SubmitRequest) -> None:
    """Raise UsageError, with what was skipped and what is gone, when there are no images: no job is created then."""
    if next(iter(request.finder(SILENT)), None) is not None:
        return
    finder = request.finder()
    for _ in finder:  # once more, for the report
        pass
    reasons = f" (skipped: {describe_skipped(finder.skipped)})" if finder.skipped else ""
    absent = describe_absent(mark_gone(db, request.sources.gone, request.sources.walked, remote=request.access.remote))
    unmatched = [f"{sentence}." for sentence in finder.unmatched]
    hint = hint_without_images(finder.skipped)
    raise UsageError(" ".join([f"no images found{reasons}.", *absent, *unmatched, hint]))


def hint_without_images(skipped: Mapping[str, int]) -> str:
    """Return what a person can do when no images were found."""
    if skipped.get("filtered"):
        return "Check --include and --exclude."
    if skipped.get(REFUSED):
        return "The lines above say why."
    if any(category.endswith(" archive") for category in skipped):
        return "To caption what is in zip and tar files, name them or add --archives; unpack others first."
    if skipped:
        return "`--list-skipped` names each skipped file; to caption one, name the file itself."
    return "Check the path."


def warn_of_patterns(request: SubmitRequest, finder: ImageFinder) -> None:
    """Tell the person which patterns matched nothing."""
    for sentence in finder.unmatched:
        request.report.warn(sentence)


def _folders_in_roots(sources: Sources) -> Iterator[bytes]:
    """Yield the folders that roots must cover: those to walk, and the deepest with all named files and archives.

    Also the buckets and servers that URLs name.
    """
    yield from sources.folders
    parents = {os.path.dirname(path) for path in (*sources.files, *sources.archives)}
    if parents:
        common = os.path.commonpath(parents)
        yield from [common] if common != b"/" else sorted(parents)
    yield from sorted({root_of(url) for url in (*sources.prefixes, *sources.urls)})


def _by_root(
    roots: list[RootPath], found: Iterable[FoundFile], limit: int
) -> Iterator[tuple[RootPath, list[FoundFile]]]:
    """Group files by the deepest root that holds them. Yields a root and files with paths below it."""
    groups: dict[RootPath, list[FoundFile]] = {}
    root_of: dict[bytes, RootPath] = {}
    for file in found:
        folder = os.path.dirname(file.path)
        if folder not in root_of:
            if len(root_of) > _MAX_CACHED_FOLDERS:
                root_of.clear()
            root_of[folder] = next(root for root in roots if is_below(folder, root.path))
        root = root_of[folder]
        group = groups.setdefault(root, [])
        group.append(replace(file, path=root.relative(file.path)))
        if len(group) == limit:
            yield root, groups.pop(root)
    yield from groups.items()


def _job_request(request: SubmitRequest, *, is_watched: bool = False) -> jobs.JobRequest:
    """Return the job to open. Two submits with the same paths, filters, model and options have the same key."""
    sources = request.sources
    later = [sources.archives, sources.prefixes, sources.urls]
    groups = [sources.folders, sources.files, *(later if any(later) else [])]
    paths = [sorted(path.hex() for path in group) for group in groups]
    terms = [
        # what is new since version 0.1 is left out unless it is used: a job of an older version is continued
        {name: value for name, value in asdict(request.filters).items() if name != "archives" or value},
        request.bundle.digest,
        request.options.digest,
        request.stale,
        request.force,
        request.limit,
        request.retry_failed,
        *(["attention"] if request.options.attention else []),
        *(["skip_near_duplicates"] if request.skip_near_duplicates else []),  # keys of other jobs stay as they were
        *(["watched"] if is_watched else []),
    ]
    name = request.name or _default_name(sources)
    return jobs.JobRequest(
        digest_of([paths, terms]),
        name,
        request.options,
        request.priority,
        request.force,
        request.skip_near_duplicates,
    )


def _default_name(sources: Sources) -> str:
    more = len(sources.all) - 1
    return text_of(sources.first).rstrip("/").rpartition("/")[2] + (f" and {more} more" if more else "")
