"""What `producer` prints: tables on a terminal, tab-separated lines in a pipe, JSON on request.

Functions take values and print them; they read neither settings nor the database. No control character of a file name
or a caption reaches the terminal.
"""

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table

from captioning.paths import text_of
from captioning.store.captions import FileRow
from captioning.store.details import CaptionDetails
from captioning.store.forget import Forgotten, Scope
from captioning.store.jobs import Failure, Progress
from captioning.store.presence import Absent
from captioning.terminal import count, printable
from captioning.values import JobState, Source
from producer.doctor import Check
from producer.dry_run import DryRun
from producer.sources import describe_skipped

FAILURE_COLUMNS = ("job", "path", "reason", "detail")
_LEAST = 16  # cells that a column of words needs on a narrow terminal

# -- JSON, tables and pieces of text --


def json_text(value: Any) -> str:
    """Return a value as one line of JSON: readable, with characters that a terminal obeys or hides escaped."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print(json_text(value))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, wrap: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Print a table that fits the terminal; values in the columns of `wrap` may take several lines, others never do.

    A terminal that is too narrow does not show the columns of `optional`, beginning with the first of these. In a pipe,
    print one line per row with values separated by tabs.
    """
    texts = [["" if value is None else printable(str(value)) for value in row] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in ([list(columns), *texts])))
        return
    width = _terminal_width()
    gap, most = 2 if width >= 80 else 1, max(20, width * 2 // 5)  # the text beside a path needs room to be read
    needed = {
        name: min(max(map(cell_len, (name, *cells))), most if name in wrap else width)
        for name, *cells in zip(columns, *texts, strict=True)
    }
    for name in optional:
        least = (min(cells, _LEAST) if n in wrap and n != "path" else cells for n, cells in needed.items())
        if sum(least) + gap * len(needed) > width:
            del needed[name]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for name in needed:
        table.add_column(name, overflow="fold", no_wrap=name == "path" or name not in wrap, min_width=len(name))
    for row in texts:
        cells = zip(columns, row, strict=True)
        table.add_row(*(_folded(text, most) if name == "path" else text for name, text in cells if name in needed))
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def _folded(path: str, width: int) -> str:
    """Return a path on lines of at most `width` cells, which end after a slash where names fit on a line."""
    parts = (piece for part in re.findall("[^/]*/|[^/]+", path) for piece in chop_cells(part, width))
    lines = [""]
    for part in parts:
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def print_text(text: str, *, indent: str = "") -> None:
    """Print a line of prose; on a terminal, wrap it between words. A long path is not broken, so it can be copied."""
    line = printable(text)
    print("\n".join(_filled(line, _terminal_width(), indent)) if sys.stdout.isatty() else indent + line)


def _filled(text: str, width: int, indent: str) -> list[str]:
    """Return text on lines of at most `width` cells, the later ones indented further.

    Words that have no spaces between them, as in Chinese, are broken anywhere; a long path is not.
    """
    lines = [indent + " " * (len(text) - len(text.lstrip(" ")))]
    for word in text.lstrip(" ").split(" "):
        has_spaces = cell_len(word) == len(word)
        for place, piece in enumerate([word] if has_spaces else chop_cells(word, width - len(indent) - 2)):
            space = " " if lines[-1].strip() and not place else ""
            if lines[-1].strip() and cell_len(lines[-1] + space + piece) > width:
                lines.append(indent + "  ")
                space = ""
            lines[-1] += space + piece
    return lines


def _terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def print_warning(message: str) -> None:
    """Print a warning on standard error."""
    print(f"producer: {printable(message)}", file=sys.stderr)


def percent(confidence: float | None) -> str:
    """Return a confidence in percent, empty for None."""
    return "" if confidence is None else f"{100 * confidence:.0f} %"


def yes_or_no(value: bool | None) -> str:
    """Return a truth value in words, empty for None."""
    return "" if value is None else "yes" if value else "no"


def _decimals(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def local_time(seconds: float | None) -> str:
    """Return a time, in seconds since 1970, in the local time zone; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def common_folder(rows: Sequence[FileRow]) -> str:
    """Return the deepest folder that holds all files, with a final slash, so that a table can leave it out."""
    if not rows:
        return ""
    return os.path.commonpath([Path(row.path).parent for row in rows]).rstrip("/") + "/"


def _skipped_text(skipped: Mapping[str, int]) -> str:
    return f"; skipped {describe_skipped(skipped)}" if sum(skipped.values()) else ""


class SkipReport:
    """Prints what a submit does not take: warnings, and with `listed` each path, with a tab before the reason.

    On a terminal the list goes through the bar of a waiting submit; elsewhere never, because that prints on standard
    error.
    """

    def __init__(self, *, listed: bool, as_json: bool) -> None:
        self._listed = listed
        self._as_json = as_json
        self._output = None if sys.stdout.isatty() else sys.stdout

    def skipped(self, path: bytes, category: str) -> None:
        """Print a path that is skipped, with its category."""
        if not self._listed:
            return
        text = text_of(path)
        exact = {} if text.encode() == path else {"path_b64": base64.b64encode(path).decode()}
        as_json, as_text = {"path": text, "skipped": category} | exact, f"{printable(text)}\t{category}"
        print(json_text(as_json) if self._as_json else as_text, file=self._output)

    def warn(self, message: str) -> None:
        """Print a warning."""
        print_warning(message)


# -- files and captions --


def print_files(rows: Sequence[FileRow], *, strip: str = "") -> None:
    """Print files with their captions; `strip` is removed from the start of the paths."""
    print_table(
        ("path", "caption", "confidence"),
        ((row.path.removeprefix(strip), _caption_or_status(row), _certainty(row)) for row in rows),
        wrap=("path", "caption"),
    )


def _certainty(row: FileRow) -> str:
    """Return what is known of how well a caption fits its image."""
    marks = [percent(row.confidence)] if row.confidence is not None else []
    marks += ["unlike"] if row.unlike else []
    marks += [row.source or ""] if row.source in (Source.HUMAN, Source.IMPORTED) else []
    marks += ["edited"] if row.edited else []
    marks += ["image changed"] if row.image_changed else []
    return ", ".join(marks)


def _caption_or_status(row: FileRow) -> str:
    if row.caption is None:
        return f"({row.error or row.status})"
    if row.caption == "":
        return "(decorative)"
    return f"{row.caption} (missing)" if row.status == "missing" else row.caption


def print_folder(folder: str, rows: Sequence[FileRow], *, is_all: bool) -> None:
    """Print the files of a folder; on a terminal, with their paths below it."""
    print_files(rows, strip=folder.rstrip("/") + "/" if sys.stdout.isatty() else "")
    if not is_all:
        print(f"the first {len(rows)}; --limit shows more, `producer export` has all", file=sys.stderr)


def print_listed(rows: Sequence[FileRow], *, is_all: bool) -> None:
    """Print files in the order in which they were asked for."""
    if not rows:
        print("no files", file=sys.stderr)
        return
    print_files(rows)
    if not is_all:
        print(f"the first {len(rows)}; --limit shows more", file=sys.stderr)


def print_search(total: int, rows: Sequence[FileRow], max_counted: int) -> None:
    """Print the files that a search found, and on standard error how many more there are."""
    if not rows:
        print("nothing found", file=sys.stderr)
        return
    print_files(rows)
    if total > len(rows):
        found = f"more than {max_counted}" if total > max_counted else str(total)
        print(f"{len(rows)} of {found}; --limit shows more", file=sys.stderr)


def print_nothing_yet() -> None:
    """Print what to do when nothing was ever submitted."""
    print_warning("nothing is captioned yet: `producer submit FOLDER` captions the images of a folder.")


def print_file(file: FileRow, captions: Sequence[CaptionDetails]) -> None:
    """Print one file with all captions of its image."""
    size = f"{file.width} x {file.height}" if file.width else ""
    print_text(" ".join(part for part in (file.path, size, file.status) if part))
    if file.partner is not None:
        print_text(f"shares the caption of {file.partner}")
    if file.image_changed:
        print_text("the image has changed since a person wrote its caption: `producer accept` if it still fits")
    if file.error:
        print_text(file.error, indent="  ")
    for caption in captions:
        print()
        print_text(caption.text or "(decorative: no caption)")
        for line in _provenance(caption):
            print_text(line, indent="  ")


def _provenance(caption: CaptionDetails) -> list[str]:
    by = f"{caption.model} ({(caption.model_digest or '')[:12]})" if caption.model else caption.source
    confidence = f", confidence {percent(caption.confidence)}" if caption.confidence is not None else ""
    lines = [f"by {by}, {caption.created_at}{confidence}"]
    if caption.shared_from is not None:
        lines += [f"shared with {caption.shared_from}, of which this is a near-duplicate"]
    if caption.original is not None:
        lines += [f"edited; the model wrote: {caption.original}"]
    if caption.unlike:
        lines += ["unlike the images that the model learned from: look before you use it"]
    if caption.words:
        lines += ["word by word: " + " ".join(f"{w['word']} {100 * w['confidence']:.0f}" for w in caption.words)]
        lines += [f"least certain word: {caption.weakest_word}"]
        lines += [f"computed by {caption.runtime} in {caption.precision}, captionmill {caption.software}"]
    return lines + [f"or: {alternative['text']}" for alternative in caption.alternatives]


def print_failures(rows: Sequence[Failure]) -> None:
    """Print failed images with their reasons."""
    if rows:
        print_table(FAILURE_COLUMNS, failure_rows(rows), wrap=("path", "detail"))
    else:
        print("no failures")


def failure_rows(rows: Sequence[Failure]) -> Iterable[tuple[object, ...]]:
    """Return the rows of the table of failures, in the order of FAILURE_COLUMNS."""
    return ((row.job, row.path, row.reason, row.detail) for row in rows)


def print_exported(number: int, output: str, unit: str, job: Progress | None, why_nothing: str) -> None:
    """Print, on standard error, how many rows or images an export wrote to a file, and what it left out."""
    if output != "-":
        print(f"{count(number, unit)} in {printable(output)}", file=sys.stderr)
    if job is not None and job.known:
        known = count(job.known, "image that was", "images that were")
        print(
            f"without {known} captioned before job {job.job}; `producer export` without a number has all files",
            file=sys.stderr,
        )
    elif why_nothing:
        print(f"nothing to export: {why_nothing}", file=sys.stderr)


# -- jobs --


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
    """Return the line about known images whose captions were made with other options than asked for."""
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


# -- forgetting --


def forget_question(scope: Scope, expected: Forgotten) -> str:
    """Return the question before a forget."""
    return f"Remove {_forgotten_text(scope, expected)}?"


def print_forgotten(scope: Scope, done: Forgotten, expected: Forgotten, *, dry_run: bool) -> None:
    """Print what a forget removed, or would remove, and which captions stay."""
    print_text(f"{'would remove' if dry_run else 'removed'} {_forgotten_text(scope, done)}")
    if expected.kept_captions:
        hint = "--captions --human" if scope.captions else "--captions"
        kept = count(expected.kept_captions, "caption of their content stays", "captions of their content stay")
        print_text(f"{kept} ({hint} removes them)")


def _forgotten_text(scope: Scope, removed: Forgotten) -> str:
    files, items = count(removed.files, "file"), count(removed.items, "item")
    captions = f" and {count(removed.captions, 'caption')}" if scope.captions else ""
    if scope.job is not None:
        until = " (out of search and export until the next submit)" if removed.files else ""
        return f"job {scope.job} with its {items}, {files} that no other job lists{until}{captions}"
    path = printable(text_of(scope.path))
    what = f"the file {path}, its" if scope.is_file else f"{files} below {path}, their"
    return f"{what} {items} in {count(removed.jobs, 'job')}{captions}"


def forgotten_json(done: Forgotten, expected: Forgotten) -> dict[str, Any]:
    """Return the result of a forget as JSON has it."""
    return asdict(done) | {"kept_captions": expected.kept_captions}


# -- models and the installation --


def print_models(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per model."""
    print_table(
        ("model", "digest", "cell", "val CIDEr", ""),
        (
            (r["name"], r["digest"][:12], r["cell"], _decimals(r["cider"]), "default" if r["default"] else "")
            for r in rows
        ),
        wrap=("model",),
        optional=("cell",),
    )


def print_checks(checks: Sequence[Check]) -> None:
    """Print the results of the doctor's checks."""
    rows = (("ok" if check.ok else "BAD", check.name, check.message) for check in checks)
    print_table(("", "check", "result"), rows, wrap=("result",))


def print_upgrade(before: str | None, after: str) -> None:
    """Print the revisions of the database schema before and after an upgrade."""
    print(f"revision {before or 'none'} -> {after}")


def print_revision(revision: str | None, needed: str) -> None:
    """Print the revision of the database schema."""
    print(f"{revision or 'none'} (this version needs {needed})")
