"""Correcting captions: correct, accept, reject, replace, import and undo."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from captioning.command_tree import UNLIMITED
from captioning.errors import UsageError
from captioning.paths import possible_paths
from captioning.store import captions, edits, history, imports, jobs
from captioning.store import files as stored_files
from captioning.store.database import Database
from captioning.store.imports import ImportedRow, Kind
from captioning.terminal import count
from producer import importing, render, render_edits
from producer.commands.shared import Json, app, confirm, counted, not_registered, open_database
from producer.export.forms import TextForm, XmpForm
from producer.progress import progress_display
from producer.replace import Replacer, changes

_PREVIEWED = 10  # captions

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="The path of an image.")]


class SidecarForm(StrEnum):
    """Sidecars that can be read."""

    TXT = "txt"
    CAPTION = "caption"
    XMP = "xmp"


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command(epilog="Example: producer correct images/beach.jpg 'Rex and Anna on the beach of Rerik'")
def correct(
    path: PathArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The caption.")] = "",
    decorative: Annotated[
        bool, typer.Option("--decorative", help="The image says nothing: its caption, or alt text, is empty.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the caption of an image yourself. It goes before those of models, and stays when the file changes.

    When the content of the file changes, the caption is marked until `producer accept` says that it still fits.
    """
    new = edits.checked_text(text)
    if decorative and new:
        raise UsageError("--decorative says that the caption is empty: leave out the text, or the option.")
    if not decorative and not new:
        raise UsageError("give the caption, or --decorative for an image that says nothing.")
    db = open_database()
    edited = edits.correct(db, _find(db, path), new)
    if as_json:
        render.print_json(edited.after.as_export())
    else:
        render_edits.print_corrected(edited.before, edited.after)


@app.command(epilog="Example: producer accept images/beach.jpg images/dune.jpg")
def accept(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="The paths of images.")], as_json: Json = False
) -> None:
    """Say that the captions of images are right. They count as written by a person from now on.

    A caption of yours that is marked `image changed` is for the present image then.
    """
    db = open_database()
    for edited in edits.accept(db, list(dict.fromkeys(_find(db, path) for path in paths))):
        if as_json:
            render.print_json(edited.after.as_export())
        else:
            render_edits.print_accepted(edited.after, is_new=edited.change is not None)


@app.command(epilog="Example: producer reject images/beach.jpg")
def reject(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="The paths of images.")], as_json: Json = False
) -> None:
    """Say that the captions of images are wrong. They are not shown, searched or exported any more.

    An image then shows its next best caption, of another model for example. A model does not make a rejected caption
    again. `producer undo` brings it back.
    """
    db = open_database()
    for edited in edits.reject(db, list(dict.fromkeys(_find(db, path) for path in paths))):
        if as_json:
            render.print_json(edited.after.as_export())
        else:
            render_edits.print_rejected(edited.before, edited.after)


@app.command(epilog="Example: producer replace 'a man' 'a person' --where 'path:holiday' --dry-run")
def replace(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Words, in capitals or not; with --regex, an expression.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="What stands in their place; may be empty.")],
    is_regex: Annotated[
        bool, typer.Option("--regex", help="OLD is a regular expression; NEW may have \\1 for its first group.")
    ] = False,
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="Only captions that `search` finds.")] = "",
    job: Annotated[int | None, typer.Option("--job", metavar="JOB", max=UNLIMITED, help="Only files of a job.")] = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    as_json: Json = False,
) -> None:
    """Replace words in the captions of models, and in imported ones. Captions that people wrote stay.

    The captions keep their source and their model, and are marked as edited. `producer undo` puts the words back.
    """
    db, replacer = open_database(), Replacer(old, new, is_regex=is_regex)
    if job is not None:
        jobs.progress(db, job)  # raises UsageError for one that does not exist
    if as_json and not yes and not dry_run:
        raise UsageError("with --json nothing is asked: add --yes to change the captions, or --dry-run to see them.")
    with progress_display() as display:
        rows = counted(captions.export_rows(db, captions.Selection(job, where=where)), "captions read", display)
        found = list(changes(rows, replacer))
    if not as_json:
        render_edits.print_replaced([(row, text.before, text.after) for row, text in found[:_PREVIEWED]], len(found))
    done = 0
    if found and not dry_run:
        if not yes:
            confirm(f"Change {count(len(found), 'caption')}?", "changed")
        detail = {"old": old, "new": new, "regex": is_regex, "where": where, "job": job}
        with db.writing() as connection:
            change = edits.begin_change(connection, "replace", detail)
            done = edits.rewrite(connection, change, (text for _, text in found))
    if as_json:
        texts = [{"path": row.path, "before": text.before, "after": text.after} for row, text in found]
        render.print_json({"found": len(found), "changed": done, "captions": texts})
    elif not dry_run and found:
        render_edits.print_changed(done, len(found))


@app.command(name="import", epilog="Example: producer import captions.csv --as-human --dry-run")
def import_(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="JSON lines or CSV: an export that was edited, for example.")
    ] = None,
    sidecars: Annotated[
        SidecarForm | None, typer.Option("--sidecars", help="Read the sidecars beside the registered images instead.")
    ] = None,
    xmp_name: Annotated[Literal["stem", "full"], typer.Option(help="xmp: a.xmp, or a.jpg.xmp.")] = "stem",
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of relative paths. Default: that of the file.")
    ] = None,
    as_human: Annotated[
        bool, typer.Option("--as-human", help="They count as written by a person, and go before all others.")
    ] = False,
    take: Annotated[
        Literal["ours", "theirs"],
        typer.Option(help="The caption that stays in a conflict: of the database, or of the file."),
    ] = "ours",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Read captions from a file, or from sidecars. All are written or none; `producer undo` takes them back.

    A row is for the image at its path, else for one with its content. Where a caption was changed in the file and in
    the database, the one in the database stays.
    """
    db = open_database()
    if xmp_name != "stem" and sidecars != SidecarForm.XMP:
        raise UsageError("--xmp-name is for --sidecars xmp.")
    read = _reader(db, file, sidecars, root, is_full=xmp_name == "full")
    with progress_display() as display:
        counts = importing.count(db, importing.pages_of(counted(read(), "rows compared", display)))
        wanted = counts.wanted + (counts.number.get(Kind.CONFLICT, 0) if take == "theirs" else 0)
        written = wanted if dry_run else 0
        if wanted and not dry_run:
            detail = {"file": str(file) if file else f"{sidecars} sidecars", "take": take, "as_human": as_human}
            pages = importing.pages_of(counted(read(), "rows written", display))
            written = imports.write(db, pages, detail, as_human=as_human, take_theirs=take == "theirs")
    if as_json:
        key = "would_be_written" if dry_run else "written"
        render.print_json({"rows": dict(counts.number), key: written})
    else:
        render_edits.print_imported(counts, written, dry_run=dry_run, theirs=take == "theirs")


@app.command(epilog="Example: producer undo")
def undo(
    change: Annotated[
        int | None,
        typer.Argument(metavar="CHANGE", max=UNLIMITED, help="Its number, see `show --history`. Default: the last."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take back what a `correct`, `accept`, `reject`, `replace` or `import` did. What was changed again since stays."""
    undone = history.undo(open_database(), change)
    if as_json:
        render.print_json(asdict(undone))
    else:
        render_edits.print_undone(undone)


def _find(db: Database, path: str) -> int:
    for candidate in possible_paths(os.fsencode(path)) if path else ():
        file_id = stored_files.find_file(db, candidate)
        if file_id is not None:
            return file_id
    raise UsageError(not_registered(path))


def _reader(
    db: Database, file: Path | None, sidecars: "SidecarForm | None", root: Path | None, *, is_full: bool
) -> Callable[[], Iterator[ImportedRow]]:
    """Return what reads the rows, as often as it is called. Raises UsageError for options that do not fit."""
    if file is None and sidecars is None:
        raise UsageError("name a file, or --sidecars txt, caption or xmp for those beside the images.")
    if file is not None and sidecars is not None:
        raise UsageError(f"{file} and --sidecars exclude each other: import one, then the other.")
    if root is not None and not root.is_dir():
        raise UsageError(f"--root {root} is no folder: name the folder that relative paths are below.")
    if file is not None:
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "does not exist"
            raise UsageError(f"{file} {what}: name a file of JSON lines or CSV, as `producer export` writes them.")
        return lambda: importing.read_table(file, root)
    if root is not None:
        raise UsageError("--root is for relative paths in a file; sidecars are beside the registered images.")
    form = XmpForm(is_full) if sidecars == SidecarForm.XMP else TextForm(str(sidecars))
    files = captions.Selection()
    return lambda: importing.read_sidecars(db, lambda: captions.export_rows(db, files), form)
