"""`export`: which files, which words, and where to."""

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Annotated, Any, Literal

import typer

from captioning.command_tree import UNLIMITED
from captioning.errors import UsageError
from captioning.settings import Settings, read_settings
from captioning.store import captions, jobs, sidecars
from captioning.store.captions import FileRow, Selection
from captioning.store.database import Database
from captioning.store.jobs import Progress
from captioning.values import Source
from producer import export as exporting
from producer import render, render_edits, render_files
from producer.commands.shared import (
    Json,
    Missing,
    app,
    check_model,
    counted,
    file_name,
    named_value,
    open_database,
    optional_job,
)
from producer.content import ContentReader
from producer.export import Target, WriteOptions
from producer.export.forms import OnExisting
from producer.export.output import STANDARD_OUTPUT, refuse_to_replace, remember
from producer.export.sidecars import SidecarExport, undo_export
from producer.export.text import TextOptions
from producer.progress import progress_display

FormatName = Enum("FormatName", {name: name for name in exporting.FORMATS})  # type: ignore[misc]  # a literal is wanted
_FORMATS = ", ".join(exporting.FORMATS)


def _option(help_: str, **given: Any) -> Any:
    return typer.Option(help=help_, **given)


def _number(help_: str, name: str = "N") -> Any:
    return typer.Option(min=1, max=UNLIMITED, metavar=name, help=help_)


FormatOption = Annotated[
    FormatName | None,
    typer.Option(
        "--format",
        case_sensitive=False,
        metavar="FORMAT",
        help=f"{_FORMATS}. Default: by the ending of -o, else jsonl.",
    ),
]
Output = Annotated[str, file_name("-o", "--output", help="The file, or the folder of a tree; -: standard output.")]
Beside = Annotated[bool, typer.Option("--beside", help="txt, caption, xmp: write beside the images.")]
_POLICIES = ", ".join(OnExisting)
Existing = Annotated[
    OnExisting,
    _option(f"What happens to files that somebody else wrote or changed: {_POLICIES}.", metavar="HOW"),
]
Where = Annotated[str, typer.Option("--where", metavar="QUERY", help="Only images that `search` finds.")]
MinConfidence = Annotated[float | None, _option("Leave out less certain captions of models.", min=0, max=1)]
Unlike = Annotated[
    Literal["yes", "no"] | None, _option("Only images unlike those that the model learned from, or only others.")
]
XmpName = Annotated[
    Literal["stem", "full"], _option("xmp: a.xmp as for Adobe's programs, or a.jpg.xmp as for darktable.")
]
_TEMPLATE = "Write this, with {caption}, {name}, {stem}, {folder}, {model}, {confidence}."


@app.command(epilog="Example: producer export --beside --format txt --prefix 'photo of ' --min-confidence 0.5")
def export(
    job: Annotated[int | None, optional_job("all files")] = None,
    format_: FormatOption = None,
    output: Output = STANDARD_OUTPUT,
    beside: Beside = False,
    on_existing: Existing = OnExisting.SKIP,
    where: Where = "",
    min_confidence: MinConfidence = None,
    min_size: Annotated[int | None, _number("Leave out images with a shorter side.", "PIXELS")] = None,
    source: Annotated[Source | None, _option("Only captions of this source.")] = None,
    model: Annotated[str | None, named_value(help="Prefer this model's captions to the default model's.")] = None,
    unlike: Unlike = None,
    prefix: Annotated[str, _option("Write this before each caption.")] = "",
    suffix: Annotated[str, _option("Write this after each caption.")] = "",
    template: Annotated[str, _option(_TEMPLATE)] = "",
    max_words: Annotated[int | None, _number("Cut captions after this many words.")] = None,
    excel: Annotated[bool, typer.Option("--excel", help="csv: mark the encoding for Excel.")] = False,
    caption_column: Annotated[str, named_value(help="hf: the name of the column.")] = "text",
    xmp_name: XmpName = "stem",
    shard_size: Annotated[int, _number("webdataset: images in a file.")] = 10_000,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the last export of sidecars changed.")] = False,
    missing: Missing = False,
    as_json: Json = False,
) -> None:
    """Write the captions: as a table, for a training tool, or as sidecars of the images.

    Sidecars go into a tree of their own at -o, or with --beside into the folders of the images. What somebody else
    wrote stays, and so does what somebody changed after an export.
    """
    settings = read_settings()
    db = open_database(settings)
    if undo:
        if job is not None or format_ is not None or output != STANDARD_OUTPUT or where:
            raise UsageError("--undo takes back the last export of sidecars as a whole: leave out the other options.")
        _undo(db, as_json=as_json)
        return
    if beside and format_ is None:
        raise UsageError("--beside writes a file beside each image: add --format txt, caption or xmp.")
    name = exporting.format_of(None if format_ is None else format_.value, output)
    progress = jobs.progress(db, job)[0] if job is not None else None
    if model is None and progress is not None:
        model = progress.model  # a job's export has the captions that the job made
    else:
        check_model(settings, model)
    text = TextOptions(prefix, suffix, template, max_words)
    options = WriteOptions(excel, caption_column, shard_size, xmp_name == "full", not text.is_plain)
    if name == "training" and source not in (None, Source.HUMAN):
        raise UsageError(f"--source {source} is not for training, which takes only what people wrote or accepted.")
    chosen = exporting.FORMATS[name]
    selection = Selection(
        job, model, min_confidence, min_size, Source.HUMAN if name == "training" else source,
        None if unlike is None else unlike == "yes", where, missing, chosen.fitting, chosen.has_partners,
    )  # fmt: skip
    _check_options(name, output, beside=beside, on_existing=on_existing, options=options)
    request = _Request(name, output, selection, text, options, on_existing, as_json)
    if chosen.target is Target.SIDECARS:
        _sidecars(db, request, None if beside else output)
    else:
        _whole(db, settings, request, progress)


@dataclass(frozen=True)
class _Request:
    """An export as a person asks for it."""

    name: str  # of the format
    output: str
    selection: Selection
    text: TextOptions
    options: WriteOptions
    on_existing: OnExisting
    as_json: bool


def _whole(db: Database, settings: Settings, request: _Request, progress: Progress | None) -> None:
    """Write one file, or one folder."""
    form, output, text = exporting.FORMATS[request.name], request.output, request.text
    if request.as_json and output == STANDARD_OUTPUT:
        raise UsageError("--json prints what was done, and the export itself goes to standard output: add -o FILE.")
    if form.target is Target.FILE:
        refuse_to_replace(db, output, overwrite=request.on_existing == OnExisting.OVERWRITE)
    left_out: list[str] = []
    # the display takes standard output over, so there is none for an export to it
    with progress_display() if output != STANDARD_OUTPUT else nullcontext() as display:
        others = _Others(request.selection.model)
        rows = counted(others.count(captions.export_rows(db, request.selection)), "files exported", display)
        if form.folder is not None:
            with ContentReader(settings) as reader:
                folder = form.folder(output, request.options, reader.readable)
                number, left_out = folder.write(rows, text.apply), folder.left_out
        else:
            written = rows if form.fitting or text.is_plain else (replace(row, text=text.apply(row)) for row in rows)
            assert form.write is not None
            options = replace(request.options, announce=functools.partial(remember, db, output))
            number = form.write(written, output, text.apply, options)
    if request.as_json:
        render.print_json({"output": output, "written": number, "left_out": len(left_out)})
        return
    why = _why_nothing(db, request.selection, number)
    render_files.print_exported(number, output, "image" if form.fitting else "row", progress, why)
    render_edits.print_left_out(left_out)
    render_edits.print_other_models(others.number, request.selection.model or "")


class _Others:
    """Counts the captions by other models than the one that was asked for."""

    def __init__(self, model: str | None) -> None:
        self.model, self.number = model, 0

    def count(self, rows: Iterable[FileRow]) -> Iterator[FileRow]:
        """Yield rows, and count them."""
        for row in rows:
            self.number += self.model is not None and row.source == Source.MACHINE and row.model != self.model
            yield row


def _why_nothing(db: Database, selection: Selection, number: int) -> str:
    """Return why an export has no rows; empty if it has some."""
    if number:
        return ""
    if not any(captions.export_rows(db, Selection(missing=True))):
        return "nothing was submitted yet, `producer submit FOLDER` captions the images of a folder"
    if not selection.missing and any(captions.export_rows(db, replace(selection, missing=True))):
        return "all such files are gone from the disk; --missing has them"
    given = [
        option
        for option, is_given in (
            ("JOB", selection.job is not None), ("--where", selection.where), ("--source", selection.source),
            ("--min-confidence", selection.min_confidence), ("--min-size", selection.min_size),
            ("--unlike", selection.unlike is not None),
        )
        if is_given
    ]  # fmt: skip
    return f"no image fits {', '.join(given)}" if given else "no image has a caption yet"


def _check_options(name: str, output: str, *, beside: bool, on_existing: OnExisting, options: WriteOptions) -> None:
    """Raise UsageError for options that do not go together."""
    is_sidecar = exporting.FORMATS[name].target is Target.SIDECARS
    if is_sidecar and beside and output != STANDARD_OUTPUT:
        raise UsageError("--beside and -o exclude each other: sidecars go beside the images, or into a tree at -o.")
    if not output:
        raise UsageError("-o needs a name, or - for standard output.")
    if is_sidecar and not beside and output == STANDARD_OUTPUT:
        raise UsageError(f"{name} writes a file for each image: add --beside, or -o FOLDER for a tree of its own.")
    if beside and not is_sidecar:
        raise UsageError(f"--beside is for sidecars, not for {name}: use --format txt, caption or xmp.")
    if on_existing not in (OnExisting.SKIP, OnExisting.OVERWRITE) and not is_sidecar:
        raise UsageError(f"--on-existing {on_existing} is for sidecars, not for {name}, which can only overwrite.")
    if on_existing == OnExisting.MERGE and name != "xmp":
        raise UsageError("--on-existing merge is for xmp: a text file has no fields. Choose append or prepend.")
    for given, of, option in (
        (options.shard_size != WriteOptions().shard_size, "webdataset", "--shard-size"),
        (options.excel, "csv", "--excel"),
        (options.caption_column != "text", "hf", "--caption-column"),
        (options.with_full_name, "xmp", "--xmp-name"),
    ):
        if given and name != of:
            raise UsageError(f"{option} is for {of}, not for {name}.")


def _sidecars(db: Database, request: _Request, output: str | None) -> None:
    """Write a file for each image: below a folder, or beside the images."""
    selection = request.selection
    make = exporting.FORMATS[request.name].form
    assert make is not None
    mirror = None if output is None else os.path.realpath(os.fsencode(output))
    if mirror is not None:
        try:
            os.makedirs(mirror, exist_ok=True)  # noqa: PTH103, bytes
        except OSError as error:
            raise UsageError(f"cannot write below {output}: {error.strerror}. Name another folder.") from None
    writer = SidecarExport(db, make(request.options), request.text.apply, request.on_existing, mirror)
    # a filter by quality must not decide which of two images a sidecar is of; what a person names may
    all_captioned = Selection(selection.job, where=selection.where, fitting=True)
    writer.require_one_name_each(captions.export_rows(db, all_captioned))
    writer.refuse_doubled(captions.export_rows(db, all_captioned))
    detail: dict[str, object] = {"format": request.name, "output": output or "--beside", "where": selection.where}
    with progress_display() as display:
        done = writer.write(captions.export_rows(db, selection), detail, lambda n: display.update("images seen", n, n))
    if request.as_json:
        render.print_json(asdict(done) | {"written": done.written})
    else:
        seen = done.written + done.same + sum(done.counts.values())
        render_edits.print_sidecars(done, _why_nothing(db, selection, seen))
    if done.unwritten:
        raise SystemExit(1)


def _undo(db: Database, *, as_json: bool) -> None:
    last = sidecars.last_export(db)
    done = undo_export(db, last.change)
    if as_json:
        render.print_json({"change": last.change} | asdict(done))
    else:
        render_edits.print_restored(last, done)
    if done.unwritten:
        raise SystemExit(1)
