"""What `producer` prints about jobs: what is queued, how far it is, how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from captioning.store.captions import FileRow
from captioning.store.jobs import Progress
from captioning.store.presence import Absent
from captioning.terminal import count, printable
from captioning.values import JobState
from producer.dry_run import DryRun
from producer.render import common_folder, local_time, print_json, print_table, print_text
from producer.render_files import print_files
from producer.sources import describe_skipped


def _skipped_text(skipped: Mapping[str, int]) -> str:
    return f"; skipped {describe_skipped(skipped)}" if sum(skipped.values()) else ""


def print_dry_run(result: DryRun, *, as_json: bool) -> None:
    """Print what a submit would find, and what it would do with it."""
    counts, preview = {"scanned": result.scanned}, result.preview
    if preview is not None:
        counts |= {"new": preview.new, "known": preview.known, "failed_before": preview.failed_before}
        counts |= {"possible_copies": result.possible_copies}
    if as_json:
        print_json(counts | {"skipped": sum(result.skipped.values()), "skipped_kinds": dict(result.skipped)})
        return
    parts = ""
    if preview is not None and result.scanned:
        numbers = ((preview.new, "new"), (preview.known, "already captioned"), (preview.failed_before, "failed before"))
        parts = ": " + ", ".join(f"{number} {what}" for number, what in numbers if number)
    nothing_to_do = preview is not None and result.scanned and not preview.new
    verb = "found, nothing to do" if nothing_to_do else "would be submitted"
    print_text(f"{count(result.scanned, 'image')} {verb}{parts}{_skipped_text(result.skipped)}")
    if result.possible_copies:
        copies = count(result.possible_copies, "new image has", "new images have")
        print_text(f"{copies} the size of a captioned image: a copy is not captioned again")
    if preview is not None and preview.other_options:
        print_text(other_options_text(preview.other_options))


def other_options_text(number: int) -> str:
    """Return the line about known images with captions that were made with other options than asked for."""
    images = count(number, "image has a caption", "images have captions")
    return f"{images} made with other options; --force redoes them"


def submit_json(progress: Progress, absent: Absent, seconds: float) -> dict[str, Any]:
    """Return the result of a submit as JSON has it."""
    return {
        "job": progress.job,
        "scanned": progress.scanned,
        "new": progress.total,
        "known": progress.known,
        "failed_before": progress.failed_before,
        "reused": progress.reused,
        "captioned": progress.captioned,
        "failed": progress.failed,
        "skipped": sum(progress.skipped.values()),
        "model_runs": progress.model_runs,
        "seconds": round(seconds, 2),
        "state": progress.state,
        "skipped_kinds": progress.skipped,
        "missing": absent.missing,
        "unreachable": absent.unreachable,
    }


def continued_text(progress: Progress) -> str:
    """Return the line that says that a submit continues a job that was begun before."""
    return f"job {progress.job} continues: {progress.done} of {progress.total} done"


def print_queued(progress: Progress) -> None:
    """Print what a submit queued for workers to do later."""
    job = progress.job
    known = f", {progress.known} already captioned" if progress.known else ""
    next_step = f"producer status {job} --watch"
    if progress.state == JobState.PAUSED:
        next_step = f"the job is paused: producer resume {job}"
    print_text(f"job {job}: {count(progress.total, 'image')} queued{known}; {next_step}")


def print_finished(
    progress: Progress,
    seconds: float,
    reasons: Mapping[str, int],
    samples: Sequence[FileRow],
    store: str,
    commands: Sequence[str],
) -> None:
    """Print how a job ended, some of its captions, where all of them are (`store`), and which commands come next."""
    counts = _counts(progress, reasons)
    print_text(f"job {progress.job} {progress.state} in {seconds:.1f} s: {counts}{_skipped_text(progress.skipped)}")
    if samples:
        print()
        print_files(samples, strip=common_folder(samples))
    if progress.captioned + progress.reused + progress.known:
        print()
        print_text(f"The captions are in {store}. Next:")
    elif commands:
        print("\nNext:")
    for command in commands:
        print(f"  {printable(command)}")


def _counts(progress: Progress, reasons: Mapping[str, int]) -> str:
    parts = [f"{progress.captioned} captioned"] if progress.captioned else []
    if progress.reused:
        parts += [count(progress.reused, "copy of a captioned image", "copies of captioned images")]
    if progress.known:
        parts += [f"{progress.known} already captioned"]
    if progress.failed:
        parts += [f"{progress.failed} failed ({_reasons_text(reasons)})"]
    if progress.failed_before:
        parts += [f"{progress.failed_before} failed before"]
    if progress.total > progress.done:
        parts += [f"{progress.total - progress.done} to do"]
    return ", ".join(parts) or "nothing to do"


def _reasons_text(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items(), key=lambda item: -item[1]))


def progress_json(progress: Progress) -> dict[str, Any]:
    """Return the progress of a job as JSON has it."""
    fields = asdict(progress)
    fields["new"] = fields.pop("total")
    fields["scanned"] = progress.scanned
    return fields


def print_status(progress: Progress, reasons: Mapping[str, int], diagnosis: Sequence[str]) -> None:
    """Print the progress of a job, its failures by reason, and why it may be stalled."""
    registering = "" if progress.registered else ", still registering files, or interrupted while doing so"
    print_text(f"job {progress.job} ({progress.name}): {progress.state}{registering}, model {progress.model}")
    print_text(f"{count(progress.scanned, 'image')}: {_counts(progress, reasons)}")
    if sum(progress.skipped.values()):
        print_text(_skipped_text(progress.skipped).removeprefix("; "))
    for sentence in diagnosis:
        print_text(sentence)


def print_jobs(rows: Sequence[Progress]) -> None:
    """Print one line per job."""
    print_table(
        ("job", "name", "state", "done", "failed", "known", "created", "model"),
        (
            (r.job, r.name, r.state, f"{r.done}/{r.total}", r.failed, r.known, local_time(r.created_at), r.model)
            for r in rows
        ),
        wrap=("name",),
        optional=("model", "created", "known"),
    )


def print_job_state(job: int, state: str, requested: JobState) -> None:
    """Print the state of a job after a request to change it."""
    print(f"job {job} is {state}" + ("" if state == requested else " already: nothing changed"))


def print_requeued(job: int, number: int) -> None:
    """Print how many images of a job were queued again."""
    print(f"job {job}: {count(number, 'image')} queued again")
