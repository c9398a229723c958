"""`submit`, and how a job is followed until it is done."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated

import typer

from captioning.bundles import find_bundles, named
from captioning.errors import CaptioningError, PathsGone, UsageError
from captioning.paths import text_of
from captioning.settings import Settings, read_settings
from captioning.store import captions, jobs
from captioning.store.database import Database
from captioning.store.presence import Absent
from captioning.values import DecodeOptions, JobState
from producer import render, render_jobs
from producer import submit as submitting
from producer.advice import next_commands
from producer.commands.shared import (
    FAILED_SOME,
    Archives,
    BeamSize,
    Exclude,
    FollowSymlinks,
    Force,
    FromFile,
    Include,
    JobName,
    Json,
    ListSkipped,
    ModelName,
    MostImages,
    Null,
    Priority,
    RetryFailed,
    Stale,
    Wait,
    app,
    open_database,
)
from producer.dispatch import Dispatcher
from producer.doctor import database_name
from producer.dry_run import dry_run
from producer.embedded.client import EmbeddedClient
from producer.progress import ProgressDisplay, explained_interrupt, progress_display, wait_for_job
from producer.sources import SILENT, Access, Filters, Sources, read_list, read_sources
from producer.submit import SubmitRequest, Submitted


@app.command(epilog="Example: producer submit ./images --exclude 'drafts/*'")
def submit(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Folders, files, archives, URLs.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    from_file: FromFile = None,
    null: Null = False,
    limit: MostImages = None,
    only_count: Annotated[bool, typer.Option("--dry-run", help="Only count; write nothing.")] = False,
    name: JobName = "",
    model: ModelName = None,
    beam_size: BeamSize = 3,
    attention: Annotated[
        bool, typer.Option("--attention", help="Keep where the model looks for each word, for `producer gallery`.")
    ] = False,
    priority: Priority = "normal",
    stale: Stale = False,
    force: Force = False,
    retry_failed: RetryFailed = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read all files to find changed ones.")] = False,
    skip_near_duplicates: Annotated[
        bool, typer.Option("--skip-near-duplicates", help="Resized and re-encoded copies share a caption.")
    ] = False,
    archives: Archives = False,
    follow_symlinks: FollowSymlinks = False,
    list_skipped: ListSkipped = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Register images and have them captioned.

    Images that have a caption are skipped, so the same command also continues an interrupted job.
    """
    started = time.monotonic()
    settings = read_settings()
    check_options(from_file, null=null, stale=stale, force=force)
    if force and skip_near_duplicates:
        raise UsageError("--force and --skip-near-duplicates exclude each other: --force captions all images.")
    bundle = named(model or settings.model, find_bundles(settings.bundle_folders))
    if attention and not bundle.attends:
        raise UsageError(
            f"--attention: the model {bundle.name} does not look word by word; choose another with --model."
        )
    listed = read_list(from_file, null=null) if from_file else None
    report = render.SkipReport(listed=list_skipped, as_json=as_json)
    request = SubmitRequest(
        sources=find_sources(settings, paths or [], listed, report, writes_nothing=only_count),
        filters=Filters(tuple(include or ()), tuple(exclude or ()), follow_symlinks, archives),
        bundle=bundle,
        options=DecodeOptions(beam_size=beam_size, attention=attention),
        name=text_of(os.fsencode(name)),
        priority=int(priority == "high"),
        stale=stale,
        force=force,
        verify=verify,
        retry_failed=retry_failed,
        skip_near_duplicates=skip_near_duplicates,
        limit=limit,
        report=report,
        access=Access.of(settings),
    )
    if only_count:
        _dry_run(settings, request, as_json=as_json)
        return
    embedded = _start_in_new_folder(settings, request)
    db = open_database(settings, create=True)
    began_at = jobs.clock(db)
    with (
        explained_interrupt("finished captions are kept, and the same command continues"),
        Dispatcher(db, settings, embedded) as dispatcher,
        progress_display() as display,
    ):
        submitted = _register(db, settings, request, dispatcher, display)
        progress = _begin(db, settings, submitted, dispatcher, display, wait=wait or settings.embedded)
    _finish(db, settings, progress, started, began_at, submitted, as_json=as_json)
    exit_if_unusable(request, submitted.refused)


def check_options(from_file: str | None, *, null: bool, stale: bool, force: bool) -> None:
    """Raise UsageError for options of which one excludes or needs the other."""
    if stale and force:
        raise UsageError("--stale and --force exclude each other: --force captions all images, --stale only some.")
    if null and not from_file:
        raise UsageError("-0 describes the list of --from-file, which is missing.")


def find_sources(
    settings: Settings,
    paths: list[str],
    listed: Iterable[bytes] | None,
    report: render.SkipReport,
    *,
    writes_nothing: bool,
) -> Sources:
    """Look up the paths that a person named. Files of the store at a path that does not exist are marked as missing."""
    try:
        return read_sources([os.fsencode(path) for path in paths], listed, report)
    except PathsGone as gone:
        if writes_nothing or (not settings.database_url and not settings.sqlite_file.exists()):
            raise
        absent = submitting.mark_gone(open_database(settings), gone.paths)
        raise UsageError(" ".join([str(gone), *submitting.describe_absent(absent)])) from None


def _start_in_new_folder(settings: Settings, request: SubmitRequest) -> EmbeddedClient | None:
    """Start the embedded worker before anything is registered, where no image can have a caption yet.

    Return the connection to it. In other folders it starts when an image is registered that needs a caption.
    """
    sources = request.sources
    is_new = settings.embedded and not settings.database_url and not settings.sqlite_file.exists()
    if not is_new or sources.urls or sources.prefixes or next(iter(request.finder(SILENT)), None) is None:
        return None
    client = EmbeddedClient(settings)
    with suppress(OSError):  # what is wrong with the folder is reported when the database is opened
        client.start()
    return client


def _dry_run(settings: Settings, request: SubmitRequest, *, as_json: bool) -> None:
    db = open_readable(settings)
    result = dry_run(db, settings, request)
    render_jobs.print_dry_run(result, as_json=as_json)
    if not result.scanned:
        raise UsageError(f"no images found. {submitting.hint_without_images(result.skipped)}")
    exit_if_unusable(request, result.refused)


def open_readable(settings: Settings) -> Database | None:
    """Open the database to look up what is known; None, after a warning, when that is not possible."""
    try:
        return open_database(settings)
    except CaptioningError as error:
        render.print_warning(f"new and known images cannot be counted separately: {error}")
        return None


def exit_if_unusable(request: SubmitRequest, refused: int) -> None:
    """Exit with FAILED_SOME when paths that the person named, or archives, cannot be used."""
    if request.sources.skipped or refused:
        raise SystemExit(FAILED_SOME)


def _register(
    db: Database, settings: Settings, request: SubmitRequest, dispatcher: Dispatcher, display: ProgressDisplay
) -> Submitted:
    def on_commit(submitted: Submitted) -> None:
        display.update("images found", submitted.scanned, submitted.scanned)
        if submitted.queued:
            dispatcher.start_early()

    submitted = submitting.submit(db, settings, request, on_commit)
    if submitted.other_options:
        display.print_line(render_jobs.other_options_text(submitted.other_options))
    return submitted


def _begin(
    db: Database,
    settings: Settings,
    submitted: Submitted,
    dispatcher: Dispatcher,
    display: ProgressDisplay,
    *,
    wait: bool,
) -> jobs.Progress:
    """Wake workers for a job that has work to do, and wait for them if `wait` is set."""
    progress = jobs.progress(db, submitted.job)[0]
    if progress.is_finished or progress.state == JobState.PAUSED:
        return progress
    if submitted.continued:
        display.print_line(render_jobs.continued_text(progress))
    dispatcher.wake_workers()
    return _wait(db, settings, submitted.job, display, dispatcher) if wait else progress


def _wait(
    db: Database, settings: Settings, job: int, display: ProgressDisplay, dispatcher: Dispatcher
) -> jobs.Progress:
    """Wait for a job. After a Ctrl-C, other machines' workers continue the job, but not the embedded one."""
    if settings.embedded:
        return wait_for_job(db, job, display, dispatcher)
    with explained_interrupt(f"workers continue job {job}: producer status {job} --watch"):
        return wait_for_job(db, job, display, dispatcher)


def dispatch(db: Database, settings: Settings, job: int, *, wait: bool) -> None:
    """Wake workers for a job. In embedded mode, or with `wait`, wait for them and print the result."""
    progress = jobs.progress(db, job)[0]
    if progress.is_finished or progress.state != JobState.ACTIVE:
        return
    started, began_at = time.monotonic(), jobs.clock(db)
    with (
        explained_interrupt("finished captions are kept, and the same command continues"),
        Dispatcher(db, settings) as dispatcher,
        progress_display() as display,
    ):
        dispatcher.wake_workers()
        if not (wait or settings.embedded):
            return
        progress = _wait(db, settings, job, display, dispatcher)
    _finish(db, settings, progress, started, began_at)


def _finish(
    db: Database,
    settings: Settings,
    progress: jobs.Progress,
    started: float,
    began_at: float,
    submitted: Submitted | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print the result of a job. Exits with FAILED_SOME when images failed since the command started.

    It started at `started` by this process's clock, and at `began_at` by the database's.
    """
    seconds = time.monotonic() - started
    absent = submitted.absent if submitted else Absent()
    for sentence in () if as_json else submitting.describe_absent(absent):
        render.print_text(sentence)
    if as_json:
        render.print_json(render_jobs.submit_json(progress, absent, seconds))
    elif not progress.is_finished:
        render_jobs.print_queued(progress)
    else:
        reasons, made = jobs.reasons(db, progress.job), captions.samples(db, progress.job, 50)
        shown = made[:: max(1, -(-len(made) // 5))]
        path = _exact_text(submitted.first_path) if submitted else ""
        commands = next_commands(progress, reasons, [row.caption or "" for row in made], path)
        render_jobs.print_finished(progress, seconds, reasons, shown, database_name(db), commands)
    if jobs.has_failures_since(db, progress.job, began_at):
        raise SystemExit(FAILED_SOME)


def _exact_text(path: bytes) -> str:
    """Return a path as a person can type it; empty if it is not UTF-8 text."""
    text = text_of(path)
    return text if text.isprintable() and os.fsencode(text) == path else ""
