"""What is asked about jobs, and what is done to them."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from captioning.errors import UsageError
from captioning.settings import read_settings
from captioning.store import jobs
from captioning.values import JobState, Reason
from producer import render, render_files, render_jobs
from producer.commands.shared import JobArgument, Json, Limit, Wait, app, open_database, optional_job
from producer.commands.submit import dispatch
from producer.diagnosis import diagnose, other_waiting_job
from producer.dispatch import ExternalBackend
from producer.progress import explained_interrupt, progress_display, wait_for_job

_REASONS = ", ".join(Reason)


@app.command(epilog="Example: producer status 3 --watch")
def status(
    job: Annotated[int | None, optional_job("the newest job")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the progress until the job is done.")] = False,
    as_json: Json = False,
) -> None:
    """Show the progress of a job, its failures by reason, and why it may be stalled."""
    settings = read_settings()
    db = open_database(settings)
    number = job if job is not None else jobs.newest_job(db)
    if watch:
        with explained_interrupt(f"job {number} is not affected"), progress_display() as display:
            wait_for_job(db, number, display, ExternalBackend(db, settings))
    progress = jobs.progress(db, number)[0]
    reasons, diagnosis = jobs.reasons(db, number), diagnose(db, settings, progress)
    other = other_waiting_job(db, settings, number) if job is None and not diagnosis else ""
    if as_json:
        render.print_json(render_jobs.progress_json(progress) | {"reasons": reasons, "diagnosis": diagnosis})
    else:
        render_jobs.print_status(progress, reasons, [*diagnosis, *([other] if other else [])])


@app.command(name="jobs", epilog="Example: producer jobs --json")
def list_jobs(limit: Limit = 20, as_json: Json = False) -> None:
    """List jobs, the newest first."""
    rows = jobs.progress(open_database(), limit=limit)
    if as_json:
        render.print_json([render_jobs.progress_json(row) for row in rows])
    else:
        render_jobs.print_jobs(rows)


@app.command(epilog="Example: producer pause 3")
def pause(job: JobArgument) -> None:
    """Pause a job. Workers finish the chunks that they have claimed."""
    db = open_database()
    render_jobs.print_job_state(job, db.retry(lambda: jobs.pause(db, job)), JobState.PAUSED)


@app.command(epilog="Example: producer resume 3")
def resume(job: JobArgument, wait: Wait = False) -> None:
    """Continue a paused or cancelled job."""
    settings = read_settings()
    db = open_database(settings)
    render_jobs.print_job_state(job, db.retry(lambda: jobs.resume(db, job)), JobState.ACTIVE)
    dispatch(db, settings, job, wait=wait)


@app.command(epilog="Example: producer cancel 3")
def cancel(job: JobArgument) -> None:
    """Cancel a job at once. Finished captions are kept; `producer resume` continues the job."""
    db = open_database()
    render_jobs.print_job_state(job, db.retry(lambda: jobs.cancel(db, job)), JobState.CANCELLED)


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
    db = open_database(settings)
    render_jobs.print_requeued(job, db.retry(lambda: jobs.retry(db, job, reason, settings.chunk_size)))
    dispatch(db, settings, job, wait=wait)


@app.command(epilog="Example: producer failures 3 --csv > failures.csv")
def failures(
    job: Annotated[int | None, optional_job("all jobs")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List the images that could not be captioned, with the reasons."""
    rows = jobs.failures(open_database(), job)
    if as_json:
        render.print_json([asdict(row) for row in rows])
    elif as_csv:
        from producer.export.tables import write_csv_table  # imports NumPy

        write_csv_table(render_files.FAILURE_COLUMNS, render_files.failure_rows(rows), sys.stdout)
    else:
        render_files.print_failures(rows)
