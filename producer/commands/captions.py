"""Looking at captions: search, show, list, stats and diff."""

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from captioning.errors import UsageError
from captioning.paths import absolute, text_of
from captioning.store import captions, details, history, jobs, model_diff, statistics
from captioning.store import search as caption_search
from producer import render, render_edits, render_files
from producer.commands.shared import Json, Limit, Missing, app, named_value, not_registered, open_database


@app.command(epilog="Example: producer search 'dog \"on the beach\" -ball'")
def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT", help="Words and fields, as above.")],
    limit: Limit = 20,
    missing: Missing = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Find images by the words of their captions, and by fields.

    Words that stand together must all occur; dog finds dogs too. "on the beach" is a phrase, -ball must not occur, and
    AND, OR, NOT and parentheses combine. Fields are path: confidence> model: source: before: after: unlike:, for
    example path:holiday confidence>0.6. Put -- before a first word that begins with -.
    """
    db = open_database()
    total, rows = caption_search.search(db, " ".join(text), limit, missing=missing)
    if as_json:
        render.print_json([row.as_export() for row in rows])
    else:
        render_files.print_search(total, rows, caption_search.MAX_COUNTED)
    if not rows and not jobs.progress(db, limit=1):
        render_files.print_nothing_yet()


@app.command(epilog="Example: producer show images/beach.jpg")
def show(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The path of an image, or of a folder.")],
    with_history: Annotated[bool, typer.Option("--history", help="Show who changed its captions, and when.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show one image with all its captions, their confidence and their provenance; or list the images of a folder."""
    db, name = open_database(), os.fsencode(path)
    if not path:
        raise UsageError(not_registered(path))
    found = details.show(db, name)
    if found is None and with_history:
        raise UsageError(not_registered(path))
    if found is None:
        rows = captions.files_below(db, name, limit + 1) or captions.files_below(db, name, limit + 1, missing=True)
        _list_folder(path, rows, limit, as_json=as_json)
        return
    file, all_captions = found
    if with_history:
        entries = history.history(db, file.file_id)[:limit]
        if as_json:
            render.print_json([asdict(entry) for entry in entries])
        else:
            render_edits.print_history(entries)
    elif as_json:
        partner = {} if file.partner is None else {"partner": file.partner}
        render.print_json(file.as_export() | partner | {"captions": [asdict(caption) for caption in all_captions]})
    else:
        render_files.print_file(file, all_captions)


def _list_folder(path: str, rows: list[captions.FileRow], limit: int, *, as_json: bool) -> None:
    """Print the files below a folder. `rows` has one more than `limit` when there are more."""
    if not rows and path and Path(path).is_dir():
        submit = f"`producer submit {shlex.quote(path)}`"
        raise UsageError(f"no image below the folder {path} is registered: submit it first with {submit}.")
    if not rows:
        raise UsageError(not_registered(path))
    if as_json:
        render.print_json([row.as_export() for row in rows[:limit]])
    else:
        render_files.print_folder(text_of(absolute(os.fsencode(path))), rows[:limit], is_all=len(rows) <= limit)


@app.command(name="list", epilog="Example: producer list --sort confidence --status captioned --limit 50")
def list_files(
    sort: Annotated[Literal["path", "confidence", "time", "size"], typer.Option(help="The order.")] = "path",
    descending: Annotated[bool, typer.Option("--descending", help="The largest first.")] = False,
    status: Annotated[
        Literal["captioned", "rejected", "failed", "pending", "missing"] | None,
        typer.Option(metavar="STATUS", help="Only captioned, rejected, failed, pending or missing files."),
    ] = None,
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="Only images that `search` finds.")] = "",
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List files with their captions in an order, for example the least certain captions first."""
    db = open_database()
    rows = statistics.list_files(db, limit + 1, sort=sort, descending=descending, status=status, where=where)
    if as_json:
        render.print_json([row.as_export() for row in rows[:limit]])
    else:
        render_files.print_listed(rows[:limit], is_all=len(rows) <= limit)
    if not rows and not jobs.progress(db, limit=1):
        render_files.print_nothing_yet()


@app.command(epilog="Example: producer stats")
def stats(as_json: Json = False) -> None:
    """Count files, images and captions, by status, source and model."""
    db = open_database()
    found = statistics.statistics(db)
    if as_json:
        render.print_json(asdict(found))
    else:
        render_edits.print_statistics(found)
    if not found.files and not jobs.progress(db, limit=1):
        render_files.print_nothing_yet()


@app.command(epilog="Example: producer diff --model lstm --model gru")
def diff(
    models: Annotated[list[str], named_value("--model", help="The two models: give the option twice.")],
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Compare the captions of two models: how often they agree, which words differ, and where they differ most."""
    if len(models) != 2 or models[0] == models[1]:
        raise UsageError(f"{' and '.join(models)}: give two different models, --model lstm --model gru.")
    found = model_diff.model_diff(open_database(), models[0], models[1], limit)
    if as_json:
        render.print_json(found.as_json())
    else:
        render_edits.print_diff(models[0], models[1], found)
