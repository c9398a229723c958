"""`watch`: caption what arrives or changes in folders."""

import os
import signal
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

from captioning.bundles import find_bundles, named
from captioning.errors import UsageError
from captioning.paths import text_of
from captioning.settings import read_settings
from captioning.values import DecodeOptions
from producer import render
from producer.commands.shared import Json, app, named_value, open_database, pattern
from producer.dispatch import Dispatcher
from producer.sources import Access, Filters, read_sources
from producer.submit import SubmitRequest
from producer.watch.loop import Batch, Watch, WatchOptions


@app.command(epilog="Example: producer watch ./incoming --exclude drafts")
def watch(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="The folders.")],
    include: Annotated[list[str] | None, pattern(help="Take only matching files. Repeatable.")] = None,
    exclude: Annotated[list[str] | None, pattern(help="Skip matching files. Repeatable.")] = None,
    model: Annotated[str | None, named_value(help="The model that captions, as `producer models` names it.")] = None,
    archives: Annotated[bool, typer.Option("--archives", help="Also look into zip and tar files.")] = False,
    settle: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="How long a file stays the same to be whole.")
    ] = 2.0,
    poll: Annotated[
        float | None,
        typer.Option(min=1, max=86_400, metavar="SECONDS", help="Walk so often; do not ask the kernel for changes."),
    ] = None,
    rescan: Annotated[
        float, typer.Option(min=1, max=10_080, metavar="MINUTES", help="Walk so often to find what was missed.")
    ] = 60.0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Caption images that are in folders, and those that arrive or change, until Ctrl-C.

    Files that are deleted are marked as missing. What happens while the command does not run is found when it starts
    again. Network drives are walked every minute, because the kernel does not notice what other machines do.
    """
    settings = read_settings()
    bundle = named(model or settings.model, find_bundles(settings.bundle_folders))
    sources = read_sources([os.fsencode(folder) for folder in folders])
    if len(sources.folders) != len(sources.all):
        other = next(path for path in sources.all if path not in sources.folders)
        raise UsageError(f"{text_of(other)} is no folder: `producer watch` takes folders.")
    request = SubmitRequest(
        sources,
        Filters(tuple(include or ()), tuple(exclude or ()), False, archives),
        bundle,
        DecodeOptions(),
        name=f"watch {text_of(sources.folders[0])}",
        access=Access.of(settings),
    )
    db = open_database(settings, create=True)
    options = WatchOptions(settle, poll, 60 * rescan)
    with Dispatcher(db, settings) as dispatcher:
        report = _report_json if as_json else _report
        found = Watch(db, settings, request, options, dispatcher, report, render.print_warning)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: found.stopped.set())
        render.print_warning(f"watching {', '.join(map(text_of, sources.folders))}; Ctrl-C ends it")
        found.run()


def _report_json(batch: Batch) -> None:
    render.print_json({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **asdict(batch)})
    sys.stdout.flush()


def _report(batch: Batch) -> None:
    """Print what a batch found, if it found something."""
    parts = [f"{number} {word}" for number, word in ((batch.queued, "queued"), (batch.gone, "gone")) if number]
    if parts:
        print(f"{time.strftime('%H:%M:%S')}  {', '.join(parts)}", flush=True)
