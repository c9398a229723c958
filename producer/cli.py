"""The words of `producer` on the command line: what is asked, in which form it is answered, nothing else."""

import functools
import os
import sys
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

import migrations
from captioning.bundles import find_bundles, named
from captioning.cli import command_line
from captioning.errors import UsageError
from captioning.paths import text_of
from captioning.settings import Settings, read_settings
from captioning.store import captions, jobs
from captioning.store import search as searching
from captioning.store.database import Database
from captioning.terminal import printable
from captioning.values import DecodeOptions, JobState, Reason
from producer import progress as waiting
from producer import render as screen
from producer import submit as submitting
from producer.dispatch import Dispatcher, diagnose
from producer.doctor import examine
from producer.export import export as write_export
from producer.export import write_csv
from producer.sources import Filters, read_list, read_sources

FAILED_SOME = 3
_MOST = 2**31 - 1  # jobs and rows that anybody can ask for

app = typer.Typer(
    help="Caption folders of images. The first thing to try: producer submit ./images",
    epilog="Example: producer submit ./images",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
db_app = typer.Typer(help="The database's schema.", no_args_is_help=True)
app.add_typer(db_app, name="db")

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
JobArgument = Annotated[
    int, typer.Argument(metavar="JOB", max=_MOST, help="The job's number, as `producer jobs` shows it.")
]
MaybeJob = Annotated[
    int | None, typer.Argument(metavar="[JOB]", max=_MOST, help="The job's number; without it, see above.")
]


def _open(settings: Settings | None = None) -> tuple[Settings, Database]:
    """Return the settings and the database with its schema in place."""
    settings = settings or read_settings()
    db = Database.open(settings)
    migrations.ensure_schema(db)
    return settings, db


@app.command(epilog="Example: producer submit ./images --exclude 'drafts/*'")
def submit(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH...", help="Folders and files.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only files that match; may be given again.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Not files that match; may be given again.")] = None,
    from_file: Annotated[str | None, typer.Option(help="Also the paths in this list; - is standard input.")] = None,
    null: Annotated[bool, typer.Option("-0", help="The list is separated by NUL, as find -print0 writes it.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=_MOST, help="Take no more than so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be taken.")] = False,
    name: Annotated[str, typer.Option(help="A name for the job.")] = "",
    model: Annotated[str | None, typer.Option(help="The model to caption with (see `producer models`).")] = None,
    beam_size: Annotated[int, typer.Option(min=1, max=20, help="BeamResult searched in parallel; 1 is greedy.")] = 3,
    priority: Annotated[str, typer.Option(help="normal, or high: before all normal jobs.")] = "normal",
    stale: Annotated[bool, typer.Option("--stale", help="Also what an older bundle of the model captioned.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what has a caption already.")] = False,
    follow_symlinks: Annotated[bool, typer.Option("--follow-symlinks", help="Follow links that stay inside.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is done (always so without a broker).")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Register images and have them captioned. The same again goes on, and skips what is known."""
    started = time.monotonic()
    settings = read_settings()
    if priority not in ("normal", "high"):
        raise UsageError(f"--priority is normal or high, not {priority!r}.")
    if stale and force:
        raise UsageError("--stale and --force exclude each other: --force redoes all, --stale what is older.")
    if null and not from_file:
        raise UsageError("-0 says how a list is separated: it needs --from-file.")
    bundle = named(model or settings.model, find_bundles(settings.bundle_folders))
    listed = read_list(from_file, null=null) if from_file else []
    sources = read_sources([os.fsencode(path) for path in paths or []], listed)
    filters = Filters(tuple(include or ()), tuple(exclude or ()), follow_symlinks)
    order = submitting.SubmitRequest(
        sources, filters, bundle, DecodeOptions(beam_size=beam_size), text_of(os.fsencode(name)),
        int(priority == "high"), stale, force, limit,
    )  # fmt: skip
    if dry_run:
        _say_dry_run(order, as_json=as_json)
        return
    _, db = _open(settings)
    with Dispatcher(db, settings) as engine, waiting.shown() as show:
        progress = _submit(db, settings, order, engine, show, wait=wait or settings.embedded)
    _say_submitted(db, settings, progress, time.monotonic() - started, as_json=as_json)
    if progress.failed:
        raise SystemExit(FAILED_SOME)


def _submit(
    db: Database, settings: Settings, order: submitting.SubmitRequest, engine: Dispatcher, show: waiting.Show, *, wait: bool
) -> jobs.Progress:
    def on_batch(done: submitting.Submitted) -> None:
        show.update("images found", done.scanned, done.scanned)
        if done.queued:
            engine.begin()

    submitted = submitting.submit(db, settings, order, on_batch)
    progress = jobs.progress(db, submitted.job)[0]
    if progress.is_finished or progress.state == JobState.PAUSED:
        return progress
    engine.wake_workers(settings.queue_window)
    return waiting.wait_for(db, submitted.job, show, engine) if wait else progress


def _say_dry_run(order: submitting.SubmitRequest, *, as_json: bool) -> None:
    count, skipped = submitting.scan(order)
    if as_json:
        screen.say_json({"scanned": count, "skipped": skipped.total(), "skipped_kinds": dict(skipped)})
    else:
        print(f"{count} images would be taken{_skipped_words(dict(skipped))}")
    if not count:
        raise UsageError("no images found. Files named explicitly are always taken.")


def _skipped_words(skipped: dict[str, int]) -> str:
    kinds = {kind: n for kind, n in skipped.items() if n}
    if not kinds:
        return ""
    return f"; skipped {sum(kinds.values())}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))


def _say_submitted(db: Database, settings: Settings, progress: jobs.Progress, seconds: float, *, as_json: bool) -> None:
    if as_json:
        screen.say_json(
            {
                "job": progress.job,
                "scanned": progress.total + progress.known,
                "new": progress.total,
                "known": progress.known,
                "reused": progress.reused,
                "captioned": progress.captioned,
                "failed": progress.failed,
                "skipped": sum(progress.skipped.values()),
                "model_runs": progress.model_runs,
                "seconds": round(seconds, 2),
                "state": progress.state,
                "skipped_kinds": progress.skipped,
            }
        )
        return
    job = progress.job
    if not progress.is_finished:
        held = (
            f"it is paused; producer resume {job}"
            if progress.state == JobState.PAUSED
            else f"producer status {job} --watch"
        )
        print(f"job {job}: {progress.total} images queued, {progress.known} known already; {held}")
        return
    counts = [
        (progress.captioned, "captioned"),
        (progress.reused, "copies of captioned ones"),
        (progress.known, "known already"),
    ]
    counts.append((progress.failed, "failed"))
    words = ", ".join(f"{n} {what}" for n, what in counts if n)
    print(
        f"job {job} {progress.state} in {seconds:.1f} s: {words or 'nothing to do'}{_skipped_words(progress.skipped)}"
    )
    some = captions.samples(db, job, 5)
    if some:
        print()
        screen.images(some, strip=screen.common_folder(some))
    where = settings.sqlite_file if not settings.database_url else db.engine.url.render_as_string(hide_password=True)
    print(f"\ncaptions are in {where}\ngo on with")
    print('  producer search "dog"\n  producer export --format jsonl -o captions.jsonl')
    if progress.failed:
        print(f"  producer failures {job}\n  producer retry {job} --failed")


@app.command(epilog="Example: producer status 3 --watch")
def status(
    job: MaybeJob = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show how it goes.")] = False,
    as_json: Json = False,
) -> None:
    """Say where a job stands; the newest one without a number."""
    settings, db = _open()
    number = job if job is not None else jobs.newest_job(db)
    if watch:
        with waiting.shown() as show:
            waiting.wait_for(db, number, show, _Watching(db, settings))
    progress = jobs.progress(db, number)[0]
    standing = diagnose(db, settings, progress)
    if as_json:
        reasons = jobs.reasons(db, number)
        screen.say_json(screen.progress_json(progress) | {"reasons": reasons, "diagnose": standing})
        return
    registering = "" if progress.registered else ", its folder is still being read or that was cut short"
    name, model = printable(progress.name), printable(progress.model)
    print(f"job {progress.job} {name}: {progress.state}{registering}, model {model}")
    left = progress.total - progress.done
    parts = {"captioned": progress.captioned, "copies": progress.reused, "failed": progress.failed, "to do": left}
    print(f"{progress.total} images: " + ", ".join(f"{n} {what}" for what, n in parts.items()))
    if progress.known or progress.skipped:
        print(f"{progress.known} known already{_skipped_words(progress.skipped)}")
    for reason, n in jobs.reasons(db, number).items():
        print(f"  {n} {reason}")
    for error in standing:
        print(printable(error))


class _Watching:
    """Nothing to keep up: somebody else runs what we look at."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db, self._settings = db, settings

    def ensure_running(self) -> None:
        pass

    def diagnose(self, progress: jobs.Progress) -> list[str]:
        return diagnose(self._db, self._settings, progress)


@app.command(name="jobs", epilog="Example: producer jobs --json")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="How many of the newest.")] = 20, as_json: Json = False
) -> None:
    """List jobs, the newest first."""
    _, db = _open()
    rows = jobs.progress(db, limit=limit)
    if as_json:
        screen.say_json([screen.progress_json(row) for row in rows])
        return
    screen.table(
        ("job", "name", "state", "done", "failed", "known", "begun", "model"),
        (
            (r.job, r.name, r.state, f"{r.done}/{r.total}", r.failed, r.known, screen.moment(r.created_at), r.model)
            for r in rows
        ),
        wide="name",
    )


@app.command(epilog="Example: producer pause 3")
def pause(job: JobArgument) -> None:
    """Stop handing out a job's work; what is in hand is finished."""
    _, db = _open()
    _say_state(job, db.retry(lambda: jobs.pause(db, job)), JobState.PAUSED)


@app.command(epilog="Example: producer resume 3")
def resume(
    job: JobArgument, wait: Annotated[bool, typer.Option("--wait", help="Stay until it is done.")] = False
) -> None:
    """Go on with a paused or cancelled job."""
    settings, db = _open()
    _say_state(job, db.retry(lambda: jobs.resume(db, job)), JobState.ACTIVE)
    _work_on(db, settings, job, wait=wait)


@app.command(epilog="Example: producer cancel 3")
def cancel(job: JobArgument) -> None:
    """Stop a job for good; captions that are there stay, and `resume` changes your mind."""
    _, db = _open()
    _say_state(job, db.retry(lambda: jobs.cancel(db, job)), JobState.CANCELLED)


@app.command(epilog="Example: producer retry 3 --failed --reason missing")
def retry(
    job: JobArgument,
    failed: Annotated[bool, typer.Option("--failed", help="What failed; nothing else can be retried.")] = False,
    reason: Annotated[str | None, typer.Option(help="Only what failed for this reason.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is done.")] = False,
) -> None:
    """Queue a job's failed images again."""
    if not failed:
        raise UsageError(f"say what to retry: producer retry {job} --failed.")
    if reason is not None and reason not in list(Reason):
        raise UsageError(f"there is no reason {reason!r}; reasons are {', '.join(Reason)}.")
    settings, db = _open()
    act = functools.partial(jobs.retry, db, job, Reason(reason) if reason else None, settings.chunk_size)
    count = db.retry(act)
    print(f"job {job}: {count} images queued again")
    _work_on(db, settings, job, wait=wait)


def _say_state(job: int, state: str, wanted: JobState) -> None:
    print(f"job {job} is {state}" + ("" if state == wanted else " already: nothing changed"))


def _work_on(db: Database, settings: Settings, job: int, *, wait: bool) -> None:
    """See that a job's work is done: here when embedded, else by the workers that are there."""
    progress = jobs.progress(db, job)[0]
    if progress.is_finished or progress.state != JobState.ACTIVE:
        return
    started = time.monotonic()
    with Dispatcher(db, settings) as engine, waiting.shown() as show:
        engine.wake_workers(settings.queue_window)
        if not (wait or settings.embedded):
            return
        progress = waiting.wait_for(db, job, show, engine)
    _say_submitted(db, settings, progress, time.monotonic() - started, as_json=False)
    if progress.failed:
        raise SystemExit(FAILED_SOME)


@app.command(epilog="Example: producer failures 3 --csv > failures.csv")
def failures(
    job: MaybeJob = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Answer in CSV.")] = False,
) -> None:
    """List images that have no caption, with the reason; of all jobs without a number."""
    _, db = _open()
    rows = jobs.failures(db, job)
    if as_json:
        screen.say_json([asdict(row) for row in rows])
    elif as_csv:
        write_csv(("job", "path", "reason", "detail"), ((r.job, r.path, r.reason, r.detail) for r in rows), sys.stdout)
    elif rows:
        screen.table(
            ("job", "path", "reason", "detail"), ((r.job, r.path, r.reason, r.detail) for r in rows), wide="detail"
        )
    else:
        print("no failures")


@app.command(epilog="Example: producer search 'dog \"on the beach\" -ball'")
def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT", help='Words, "phrases", -without.')],
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="Show no more than so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Find images by their captions. Endings don't matter: dog finds dogs. Put -- before a leading -word."""
    _, db = _open()
    total, rows = searching.search(db, " ".join(text), limit)
    if as_json:
        screen.say_json([row.as_export() for row in rows])
    elif rows:
        screen.images(rows)
        if total > len(rows):
            many = f"more than {searching.COUNTED}" if total > searching.COUNTED else total
            print(f"{len(rows)} of {many}; --limit shows more", file=sys.stderr)
    else:
        print("nothing found", file=sys.stderr)


@app.command(epilog="Example: producer show images/beach.jpg")
def show(path: Annotated[str, typer.Argument(help="An image's path.")], as_json: Json = False) -> None:
    """Show all that is known of one image."""
    _, db = _open()
    found = captions.show(db, os.fsencode(path))
    if found is None:
        raise UsageError(f"{path} is not registered: producer submit it first.")
    image, told = found
    if as_json:
        screen.say_json(image.as_export() | {"captions": [asdict(one) for one in told]})
        return
    size = f"{image.width} x {image.height}" if image.width else ""
    print(printable(" ".join(part for part in (image.path, size, image.status) if part)))
    if image.error:
        print(f"  {printable(image.error)}")
    for one in told:
        by = f"{one.model} ({(one.model_digest or '')[:12]})" if one.model else one.source
        print(f"\n{printable(one.text)}")
        print(printable(f"  by {by}, {one.created_at}, confidence {screen.percent(one.confidence)}"))
        if one.words:
            words = " ".join(f"{w['word']} {100 * w['confidence']:.0f}" for w in one.words)
            print(printable(f"  word by word: {words}"))
            print(f"  least sure of {one.weakest_word!r}; {one.runtime} {one.precision}, captionmill {one.software}")
        for other in one.alternatives:
            print(printable(f"  or: {other['text']}"))


@app.command(epilog="Example: producer export --format csv -o captions.csv")
def export(
    job: MaybeJob = None,
    kind: Annotated[str, typer.Option("--format", help="jsonl or csv.")] = "jsonl",
    output: Annotated[str, typer.Option("-o", "--output", help="A file; - is standard output.")] = "-",
    model: Annotated[str | None, typer.Option(help="Prefer this model's captions to the default model's.")] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only captions at least so sure.")] = None,
) -> None:
    """Write captions, one row a file; the files of one job, or all that are there."""
    if kind not in ("jsonl", "csv"):
        raise UsageError(f"--format is jsonl or csv, not {kind!r}.")
    settings, db = _open()
    if job is not None:
        jobs.progress(db, job)  # says so when there is none
    if model is not None:
        named(model, find_bundles(settings.bundle_folders))
    count = write_export(captions.export_rows(db, job, model, min_confidence), kind, output)
    if output != "-":
        print(f"{count} rows in {output}", file=sys.stderr)


@app.command(epilog="Example: producer models --json")
def models(as_json: Json = False) -> None:
    """List the models at hand."""
    settings = read_settings()
    found = sorted(find_bundles(settings.bundle_folders).values(), key=lambda bundle: bundle.name)
    rows: list[dict[str, Any]] = [
        {
            "name": bundle.name,
            "digest": bundle.digest,
            "cell": bundle.description["decoder"]["cell"],
            "cider": bundle.description.get("metrics", {}).get("val", {}).get("cider"),
            "default": bundle.name == settings.model,
            "folder": str(bundle.folder),
        }
        for bundle in found
    ]
    if as_json:
        screen.say_json(rows)
        return
    screen.table(
        ("model", "digest", "cell", "val CIDEr", ""),
        ((r["name"], r["digest"][:16], r["cell"], r["cider"], "default" if r["default"] else "") for r in rows),
    )


@app.command(epilog="Example: producer doctor")
def doctor(as_json: Json = False) -> None:
    """Look at everything that captioning here stands on; exit 1 if something is wrong."""
    findings = list(examine(read_settings()))
    if as_json:
        screen.say_json([asdict(finding) for finding in findings])
    else:
        screen.table(
            ("", "what", "found"), (("ok" if f.good else "BAD", f.what, f.said) for f in findings), wide="found"
        )
    if not all(finding.good for finding in findings):
        raise SystemExit(1)


@db_app.command(epilog="Example: producer db upgrade")
def upgrade() -> None:
    """Make or bring up to date the tables of the configured database."""
    db = Database(read_settings().store_url)
    before = migrations.current(db)
    print(f"revision {before or 'none'} -> {migrations.upgrade(db)}")


@db_app.command(epilog="Example: producer db current")
def current() -> None:
    """Say which revision the database is at."""
    db = Database(read_settings().store_url)
    at, needed = migrations.current(db), migrations.head(db)
    print(f"{at or 'none'} (this version needs {needed})")
    migrations.refuse_other(db)


def main() -> None:
    """Run `producer`."""
    command_line(app, "producer", interrupted="interrupted; what is captioned stays, and the same command goes on")
