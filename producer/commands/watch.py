"""`watch`: caption what arrives or changes in folders."""

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

from captioning.bundles import find_bundles, named
from captioning.errors import UsageError
from captioning.paths import text_of
from captioning.settings import read_settings
from captioning.values import DecodeOptions
from producer import render
from producer.commands.shared import (
    Archives,
    BeamSize,
    Exclude,
    Include,
    JobName,
    Json,
    ModelName,
    Priority,
    app,
    open_database,
)
from producer.dispatch import Dispatcher
from producer.sources import Access, Filters, Sources, read_sources
from producer.submit import SubmitRequest
from producer.watch.folder import Timing
from producer.watch.loop import Batch, Watch
from producer.watch.notices import Notices


@app.command(epilog="Example: producer watch ./incoming --exclude drafts")
def watch(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="The folders.")],
    include: Include = None,
    exclude: Exclude = None,
    name: JobName = "",
    model: ModelName = None,
    beam_size: BeamSize = 3,
    priority: Priority = "normal",
    archives: Archives = False,
    settle: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="How long a file stays the same to be whole.")
    ] = 2.0,
    poll: Annotated[
        float | None,
        typer.Option(min=1, max=86_400, metavar="SECONDS", help="Walk so often; do not ask the system for changes."),
    ] = None,
    rescan: Annotated[
        float, typer.Option(min=1, max=10_080, metavar="MINUTES", help="Walk so often to find what was missed.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Caption images that are in folders, and those that arrive or change, until Ctrl-C.

    Files that are deleted are marked as missing. What happens while the command does not run is found when it starts
    again. Network drives are walked every minute, because the system does not notice what other machines do.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = read_settings()
    sources = _folders_only(read_sources([os.fsencode(folder) for folder in folders]))
    request = SubmitRequest(
        sources,
        Filters(tuple(include or ()), tuple(exclude or ()), follow_symlinks=False, archives=archives),
        bundle=named(model or settings.model, find_bundles(settings.bundle_folders)),
        options=DecodeOptions(beam_size=beam_size),
        name=text_of(os.fsencode(name)) or f"watch {text_of(sources.first)}",
        priority=int(priority == "high"),
        access=Access.of(settings),
    )
    notices = Notices(render.print_warning)
    timing, report = Timing(settle, 60 * rescan, poll), _report_json if as_json else _report
    with suppress(KeyboardInterrupt):
        db = notices.when_database_answers(lambda: open_database(settings, create=True))
        with Dispatcher(db, settings) as dispatcher:
            render.print_warning(f"watching {', '.join(map(text_of, sources.folders))}; Ctrl-C ends it")
            Watch(db, settings, request, timing, dispatcher, report, notices).run()


def _folders_only(sources: Sources) -> Sources:
    """Return the sources. Raises UsageError when there is something else than folders among them."""
    others = [path for path in sources.all if path not in sources.folders]
    if others:
        raise UsageError(f"{text_of(others[0])} is not a folder: `producer watch` takes folders.")
    return sources


def _report_json(batch: Batch) -> None:
    render.print_json({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **asdict(batch)})
    sys.stdout.flush()


def _report(batch: Batch) -> None:
    """Print what a batch found."""
    parts = [f"{number} {word}" for number, word in ((batch.queued, "queued"), (batch.gone, "gone")) if number]
    print(f"{time.strftime('%H:%M:%S')}  {', '.join(parts)}", flush=True)
