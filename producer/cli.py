"""The command line of `producer`: its commands, their options and their help. `producer.render` prints the answers."""

import functools
import os
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import migrations
from captioning.bundles import find_bundles, named
from captioning.cli import command_line
from captioning.command_tree import UNLIMITED, new_app
from captioning.errors import CaptioningError, PathsGone, UsageError
from captioning.paths import absolute, text_of
from captioning.settings import Settings, read_settings
from captioning.store import captions, jobs
from captioning.store import forget as forgetting
from captioning.store import search as caption_search
from captioning.store.database import Database
from captioning.store.presence import Absent
from captioning.values import DecodeOptions, JobState, Reason
from producer import export as exporting
from producer import render
from producer import submit as submitting
from producer.advice import next_commands
from producer.diagnosis import diagnose, other_waiting_job
from producer.dispatch import Dispatcher, ExternalBackend
from producer.doctor import database_name, run_checks
from producer.dry_run import dry_run
from producer.progress import ProgressDisplay, explained_interrupt, progress_display, wait_for_job
from producer.sources import Filters, Sources, read_list, read_sources
from producer.submit import SubmitRequest, Submitted

FAILED_SOME = 3  # exit code of a command that reports on its job when images of the job have failed

app = new_app(
    help="Caption folders of images, and search and export the captions.",
    epilog="Example: producer submit ./images",
)
db_app = new_app(help="Create, upgrade or check the tables of the database.")
app.add_typer(db_app, name="db")

Format = Enum("Format", {name: name for name in exporting.FORMATS})  # type: ignore[misc]  # mypy wants a literal
_REASONS = ", ".join(Reason)
_DEFAULT_FORMAT = Format(next(iter(exporting.FORMATS)))
# Options whose value is a pattern, a file or a name.
_pattern, _file, _named = (functools.partial(typer.Option, metavar=metavar) for metavar in ("PATTERN", "FILE", "NAME"))
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=UNLIMITED, help="Show at most this many.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until the job is done. Without a broker, the command always waits.")
]
Missing = Annotated[bool, typer.Option("--missing", help="Also show files that are gone from the disk.")]
JobArgument = Annotated[
    int, typer.Argument(metavar="JOB", max=UNLIMITED, help="The number of the job, as `producer jobs` shows it.")
]


def _optional_job(default: str) -> Any:
    return typer.Argument(metavar="JOB", max=UNLIMITED, help=f"The number of the job. Without it: {default}.")


@app.command(epilog="Example: producer submit ./images --exclude 'drafts/*'")
def submit(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Folders and files.")] = None,
    include: Annotated[list[str] | None, _pattern(help="Take only matching files. Repeatable.")] = None,
    exclude: Annotated[list[str] | None, _pattern(help="Skip matching files. Repeatable.")] = None,
    from_file: Annotated[str | None, _file(help="Also take the paths in this file; -: standard input.")] = None,
    null: Annotated[bool, typer.Option("-0", help="The file separates paths by NUL, like find -print0.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=UNLIMITED, help="Take at most this many images.")] = None,
    only_count: Annotated[bool, typer.Option("--dry-run", help="Only count; write nothing.")] = False,
    name: Annotated[str, _named(help="A name for the job. Default: the name of the first path.")] = "",
    model: Annotated[str | None, _named(help="The model that captions, as `producer models` names it.")] = None,
    beam_size: Annotated[int, typer.Option(min=1, max=20, help="Hypotheses in the beam search; 1: greedy search.")] = 3,
    priority: Annotated[Literal["normal", "high"], typer.Option(help="high: before all normal jobs.")] = "normal",
    stale: Annotated[bool, typer.Option("--stale", help="Redo captions by older versions of the model.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Redo all captions.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try files again that failed before.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read all files to find changed ones.")] = False,
    follow_symlinks: Annotated[bool, typer.Option("--follow-symlinks", help="Follow links inside the folder.")] = False,
    list_skipped: Annotated[bool, typer.Option("--list-skipped", help="Name each path that is not taken.")] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Register images and have them captioned.

    Images that have a caption are skipped, so the same command also continues an interrupted job.
    """
    started = time.monotonic()
    settings = read_settings()
    if stale and force:
        raise UsageError("--stale and --force exclude each other: --force captions all images, --stale only some.")
    if null and not from_file:
        raise UsageError("-0 describes the list of --from-file, which is missing.")
    bundle = named(model or settings.model, find_bundles(settings.bundle_folders))
    listed = read_list(from_file, null=null) if from_file else None
    report = render.SkipReport(listed=list_skipped, as_json=as_json)
    request = SubmitRequest(
        sources=_read_sources(settings, paths or [], listed, report, is_dry_run=only_count),
        filters=Filters(tuple(include or ()), tuple(exclude or ()), follow_symlinks),
        bundle=bundle,
        options=DecodeOptions(beam_size=beam_size),
        name=text_of(os.fsencode(name)),
        priority=int(priority == "high"),
        stale=stale,
        force=force,
        verify=verify,
        retry_failed=retry_failed,
        limit=limit,
        report=report,
    )
    if only_count:
        _dry_run(settings, request, as_json=as_json)
        return
    db = _open_database(settings, create=True)
    began_at = jobs.clock(db)
    with (
        explained_interrupt("finished captions are kept, and the same command continues"),
        Dispatcher(db, settings) as dispatcher,
        progress_display() as display,
    ):
        submitted = _register(db, settings, request, dispatcher, display)
        progress = _begin(db, settings, submitted, dispatcher, display, wait=wait or settings.embedded)
    _finish(db, settings, progress, started, began_at, submitted, as_json=as_json)
    _exit_if_unusable(request)


def _read_sources(
    settings: Settings, paths: list[str], listed: Iterable[bytes] | None, report: render.SkipReport, *, is_dry_run: bool
) -> Sources:
    """Look up the paths that a person named. Files of the store at a path that does not exist are marked as missing."""
    try:
        return read_sources([os.fsencode(path) for path in paths], listed, report)
    except PathsGone as gone:
        if is_dry_run or (not settings.database_url and not settings.sqlite_file.exists()):
            raise
        absent = submitting.mark_gone(_open_database(settings), gone.paths)
        raise UsageError(" ".join([str(gone), *submitting.describe_absent(absent)])) from None


def _dry_run(settings: Settings, request: SubmitRequest, *, as_json: bool) -> None:
    try:
        db = _open_database(settings)
    except CaptioningError as error:
        render.print_warning(f"new and known images cannot be counted separately: {error}")
        db = None
    result = dry_run(db, settings, request)
    render.print_dry_run(result, as_json=as_json)
    if not result.scanned:
        raise UsageError(f"no images found. {submitting.hint_without_images(result.skipped)}")
    _exit_if_unusable(request)


def _exit_if_unusable(request: SubmitRequest) -> None:
    """Exit with FAILED_SOME when paths that the person named cannot be used."""
    if request.sources.skipped:
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
        display.print_line(render.other_options_text(submitted.other_options))
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
        display.print_line(render.continued_text(progress))
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


@app.command(epilog="Example: producer status 3 --watch")
def status(
    job: Annotated[int | None, _optional_job("the newest job")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the progress until the job is done.")] = False,
    as_json: Json = False,
) -> None:
    """Show the progress of a job, its failures by reason, and why it may be stalled."""
    settings = read_settings()
    db = _open_database(settings)
    number = job if job is not None else jobs.newest_job(db)
    if watch:
        with explained_interrupt(f"job {number} is not affected"), progress_display() as display:
            wait_for_job(db, number, display, ExternalBackend(db, settings))
    progress = jobs.progress(db, number)[0]
    reasons, diagnosis = jobs.reasons(db, number), diagnose(db, settings, progress)
    other = other_waiting_job(db, settings, number) if job is None and not diagnosis else ""
    if as_json:
        render.print_json(render.progress_json(progress) | {"reasons": reasons, "diagnosis": diagnosis})
    else:
        render.print_status(progress, reasons, [*diagnosis, *([other] if other else [])])


@app.command(name="jobs", epilog="Example: producer jobs --json")
def list_jobs(limit: Limit = 20, as_json: Json = False) -> None:
    """List jobs, the newest first."""
    rows = jobs.progress(_open_database(), limit=limit)
    if as_json:
        render.print_json([render.progress_json(row) for row in rows])
    else:
        render.print_jobs(rows)


@app.command(epilog="Example: producer pause 3")
def pause(job: JobArgument) -> None:
    """Pause a job. Workers finish the chunks that they have claimed."""
    db = _open_database()
    render.print_job_state(job, db.retry(lambda: jobs.pause(db, job)), JobState.PAUSED)


@app.command(epilog="Example: producer resume 3")
def resume(job: JobArgument, wait: Wait = False) -> None:
    """Continue a paused or cancelled job."""
    settings = read_settings()
    db = _open_database(settings)
    render.print_job_state(job, db.retry(lambda: jobs.resume(db, job)), JobState.ACTIVE)
    _dispatch(db, settings, job, wait=wait)


@app.command(epilog="Example: producer cancel 3")
def cancel(job: JobArgument) -> None:
    """Cancel a job at once. Finished captions are kept; `producer resume` continues the job."""
    db = _open_database()
    render.print_job_state(job, db.retry(lambda: jobs.cancel(db, job)), JobState.CANCELLED)


@app.command(epilog="Example: producer retry 3 --failed --reason missing")
def retry(
    job: JobArgument,
    failed: Annotated[bool, typer.Option("--failed", help="Required: only failed images can be retried.")] = False,
    reason: Annotated[
        Reason | None, typer.Option(metavar="REASON", help=f"Only those that failed so: {_REASONS}.")
    ] = None,
    wait: Wait = False,
) -> None:
    """Queue the failed images of a job again."""
    if not failed:
        raise UsageError(f"only failed images can be retried: producer retry {job} --failed.")
    settings = read_settings()
    db = _open_database(settings)
    render.print_requeued(job, db.retry(lambda: jobs.retry(db, job, reason, settings.chunk_size)))
    _dispatch(db, settings, job, wait=wait)


@app.command(epilog="Example: producer failures 3 --csv > failures.csv")
def failures(
    job: Annotated[int | None, _optional_job("all jobs")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List the images that could not be captioned, with the reasons."""
    rows = jobs.failures(_open_database(), job)
    if as_json:
        render.print_json([asdict(row) for row in rows])
    elif as_csv:
        exporting.write_csv_table(render.FAILURE_COLUMNS, render.failure_rows(rows), sys.stdout)
    else:
        render.print_failures(rows)


@app.command(epilog="Example: producer search 'dog \"on the beach\" -ball'")
def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT", help='Words, "phrases", and -unwanted words.')],
    limit: Limit = 20,
    missing: Missing = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Find images by the words of their captions.

    Other endings of a word match too: dog finds dogs. Put -- before a first word that begins with -.
    """
    db = _open_database()
    total, rows = caption_search.search(db, " ".join(text), limit, missing=missing)
    if as_json:
        render.print_json([row.as_export() for row in rows])
    else:
        render.print_search(total, rows, caption_search.MAX_COUNTED)
    if not rows and not jobs.progress(db, limit=1):
        render.print_warning("nothing is captioned yet: `producer submit FOLDER` captions the images of a folder.")


@app.command(epilog="Example: producer show images/beach.jpg")
def show(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The path of an image, or of a folder.")],
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show one image with all its captions, their confidence and their provenance; or list the images of a folder."""
    db, name = _open_database(), os.fsencode(path)
    found = captions.show(db, name)
    if found is None:
        rows = captions.files_below(db, name, limit + 1) or captions.files_below(db, name, limit + 1, missing=True)
        _list_folder(path, rows, limit, as_json=as_json)
        return
    file, details = found
    if as_json:
        render.print_json(file.as_export() | {"captions": [asdict(caption) for caption in details]})
    else:
        render.print_file(file, details)


def _list_folder(path: str, rows: list[captions.FileRow], limit: int, *, as_json: bool) -> None:
    """Print the files below a folder. `rows` has one more than `limit` when there are more."""
    if not rows and Path(path).is_dir():
        raise UsageError(f"no image below the folder {path} is registered: submit it first with `producer submit`.")
    if not rows:
        raise UsageError(f"{path} is not registered: submit it first with `producer submit`.")
    if as_json:
        render.print_json([row.as_export() for row in rows[:limit]])
    else:
        render.print_folder(text_of(absolute(os.fsencode(path))), rows[:limit], is_all=len(rows) <= limit)


@app.command(epilog="Example: producer export --format csv -o captions.csv")
def export(
    job: Annotated[int | None, _optional_job("all files")] = None,
    format_: Annotated[Format, typer.Option("--format", case_sensitive=False, help="The format.")] = _DEFAULT_FORMAT,
    output: Annotated[str, _file("-o", "--output", help="The file to write; -: standard output.")] = "-",
    model: Annotated[str | None, _named(help="Prefer this model's captions to the default model's.")] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Leave out less certain captions.")] = None,
    missing: Missing = False,
) -> None:  # fmt: skip
    """Write one row per file: its path, its preferred caption and its status."""
    settings = read_settings()
    db = _open_database(settings)
    progress = jobs.progress(db, job)[0] if job is not None else None
    if model is not None:
        bundles = find_bundles(settings.bundle_folders)
        if model not in bundles.outdated:  # whose captions are as good as they were
            named(model, bundles)
    rows = captions.export_rows(db, job, model, min_confidence, missing=missing)
    number = exporting.export(rows, format_.value, output)
    others = () if number else captions.export_rows(db, job, model, min_confidence, missing=True)
    render.print_exported(number, output, progress, min_confidence, missing=any(others))


@app.command(epilog="Example: producer forget ./old-photos --dry-run")
def forget(
    target: Annotated[
        str,
        typer.Argument(metavar="PATH|JOB", help="A file, a folder, or the number of a job (./3: a file)."),
    ],
    with_captions: Annotated[
        bool, typer.Option("--captions", help="Remove machine captions that no other file needs.")
    ] = False,
    human: Annotated[bool, typer.Option("--human", help="With --captions: also those that people wrote.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove files, or a job, from the database. Nothing on disk is touched, and captions stay without --captions.

    Forgetting a job also removes those of its files that no other job lists.
    """
    if human and not with_captions:
        raise UsageError("--human needs --captions: it also removes the captions that people wrote.")
    db = _open_database()
    if re.fullmatch("[0-9]{1,10}", target):
        scope = forgetting.scope_of_job(db, min(int(target), UNLIMITED))
    else:
        scope = forgetting.scope_of_path(db, os.fsencode(target))
    scope = replace(scope, captions=with_captions, human=human)
    expected = forgetting.count(db, scope)
    if not (yes or dry_run):
        _confirm(render.forget_question(scope, expected))
    done = expected
    if not dry_run:
        with progress_display() as display:
            done = forgetting.forget(db, scope, lambda n: display.update("files forgotten", n, expected.files))
    if as_json:
        render.print_json(render.forgotten_json(done, expected))
    else:
        render.print_forgotten(scope, done, expected, dry_run=dry_run)


def _confirm(question: str) -> None:
    """Ask on standard error. Raises UsageError when nobody can answer, and exits with 1 after a no."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nothing was removed: add --yes, because there is no terminal to ask on.")
    if not typer.confirm(question, err=True):
        render.print_warning("nothing was removed.")
        raise SystemExit(1)


@app.command(epilog="Example: producer models --json")
def models(as_json: Json = False) -> None:
    """List the models that can caption."""
    settings = read_settings()
    bundles = find_bundles(settings.bundle_folders)
    bundles.report_outdated()
    rows: list[dict[str, Any]] = [
        {
            "name": bundle.name,
            "digest": bundle.digest,
            "cell": bundle.description["decoder"]["cell"],
            "cider": bundle.description.get("metrics", {}).get("val", {}).get("cider"),
            "default": bundle.name == settings.model,
            "folder": str(bundle.folder),
        }
        for _, bundle in sorted(bundles.items())
    ]
    if as_json:
        render.print_json(rows)
    else:
        render.print_models(rows)


@app.command(epilog="Example: producer doctor")
def doctor(as_json: Json = False) -> None:
    """Check everything that captioning depends on. Exits with 1 when a check fails."""
    checks = list(run_checks(read_settings()))
    if as_json:
        render.print_json([asdict(check) for check in checks])
    else:
        render.print_checks(checks)
    if not all(check.ok for check in checks):
        raise SystemExit(1)


@db_app.command(epilog="Example: producer db upgrade")
def upgrade() -> None:
    """Create the tables of the configured database, or upgrade them to this version."""
    db = Database(read_settings().store_url)
    before = migrations.current(db)
    render.print_upgrade(before, migrations.upgrade(db))


@db_app.command(epilog="Example: producer db current")
def current() -> None:
    """Show the revision of the database. Exits with 1 when this version cannot use it."""
    db = Database(read_settings().store_url)
    render.print_revision(migrations.current(db), migrations.head())
    migrations.refuse_other(db)


def _open_database(settings: Settings | None = None, *, create: bool = False) -> Database:
    """Open the database. Only with `create` are its file and its tables created or upgraded, where that is allowed."""
    settings = settings or read_settings()
    if not settings.database_url and settings.data_dir.exists() and not settings.data_dir.is_dir():
        raise UsageError(f"CAPTIONING_DATA_DIR={settings.data_dir} is not a folder: set it to one.")
    db = Database.open(settings)
    if create:
        migrations.ensure_schema(db)
    elif db.is_missing and not settings.database_url:  # nothing was submitted yet: read from empty tables in memory
        db = Database("sqlite://")
        migrations.upgrade(db)
    else:
        migrations.refuse_other(db)
    return db


def _dispatch(db: Database, settings: Settings, job: int, *, wait: bool) -> None:
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
        render.print_json(render.submit_json(progress, absent, seconds))
    elif not progress.is_finished:
        render.print_queued(progress)
    else:
        reasons, made = jobs.reasons(db, progress.job), captions.samples(db, progress.job, 50)
        shown = made[:: max(1, -(-len(made) // 5))]
        path = _exact_text(submitted.first_path) if submitted else ""
        commands = next_commands(progress, reasons, [row.caption or "" for row in made], path)
        render.print_finished(progress, seconds, reasons, shown, database_name(db), commands)
    if jobs.has_failures_since(db, progress.job, began_at):
        raise SystemExit(FAILED_SOME)


def _exact_text(path: bytes) -> str:
    """Return a path as a person can type it; empty if it is not UTF-8 text."""
    text = text_of(path)
    return text if text.isprintable() and os.fsencode(text) == path else ""


def main() -> None:
    """Run `producer`."""
    command_line(app, "producer")
