"""Finding images by images: similar and duplicates."""

import os
import shlex
from typing import Annotated

import typer

from captioning.command_tree import UNLIMITED
from captioning.errors import UsageError
from captioning.store import details, jobs, similar
from producer import render, render_files, render_similar
from producer.commands.shared import Json, Limit, app, not_registered, open_database
from producer.progress import explained_interrupt, progress_display


@app.command(name="similar", epilog="Example: producer similar images/beach.jpg")
def similar_images(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The path of an image.")],
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Find images that show something similar to one image, the most similar first, and say which are copies of it.

    The score is 100 % for the same content, and near 0 % for images that have nothing in common.
    """
    db = open_database()
    found = details.show(db, os.fsencode(path)) if path else None
    if found is None:
        raise UsageError(not_registered(path))
    file = found[0]
    files = similar.similar_files(db, file.file_id, limit)
    if files is None:
        raise UsageError(_without_features(path, is_captioned=file.sha256 is not None))
    if as_json:
        render.print_json([one.as_json() for one in files])
    else:
        render_similar.print_similar(files)


def _without_features(path: str, *, is_captioned: bool) -> str:
    """Return the message about an image that cannot be compared."""
    if is_captioned:
        command = f"`producer submit --force {shlex.quote(path)}`"
        return f"{path} was captioned before images could be compared: run {command} once."
    return f"{path} has no caption yet, and images are compared by what the model saw: wait for its job."


@app.command(epilog="Example: producer duplicates --strict --json > duplicates.json")
def duplicates(
    job: Annotated[int | None, typer.Option(min=1, max=UNLIMITED, help="Only files of this job.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Only re-encoded and resized copies; no cropped or edited ones.")
    ] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Find copies and near-duplicates: re-encoded, resized, cropped, mirrored and edited images, in clusters.

    The first image of a cluster has the most pixels, and the others are compared with it: copy (the same bytes), same
    (re-encoded or resized), part (cropped, framed or edited), mirrored, or linked (only through others). Nothing is
    deleted.
    """
    db = open_database()
    if job is not None:
        jobs.progress(db, job)
    with explained_interrupt("nothing was changed"), progress_display() as display:
        found = similar.find_duplicates(
            db, job=job, strict=strict, on_progress=lambda done, total: display.update("images compared", done, total)
        )
    if as_json:
        render.print_json(render_similar.duplicates_json(found, limit))
    else:
        render_similar.print_duplicates(found, limit)
    if not found.compared and not jobs.progress(db, limit=1):
        render_files.print_nothing_yet()
