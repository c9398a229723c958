"""What `producer` prints about files, their captions and their failures."""

import sys
from collections.abc import Iterable, Sequence

from captioning.store.captions import FileRow
from captioning.store.details import CaptionDetails
from captioning.store.jobs import Failure, Progress
from captioning.terminal import count, printable
from captioning.values import Source
from producer.render import percent, print_table, print_text, print_warning

FAILURE_COLUMNS = ("job", "path", "reason", "detail")


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
