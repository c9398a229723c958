"""`plan`: how long a submit would take on this machine."""

from typing import Annotated

import typer

from captioning.bundles import find_bundles, named
from captioning.errors import UsageError
from captioning.settings import read_settings
from captioning.values import DecodeOptions
from producer import render, render_plan
from producer import submit as submitting
from producer.commands.shared import (
    Archives,
    BeamSize,
    Exclude,
    FollowSymlinks,
    Force,
    FromFile,
    Include,
    Json,
    ListSkipped,
    ModelName,
    MostImages,
    Null,
    RetryFailed,
    Stale,
    app,
)
from producer.commands.submit import check_options, exit_if_unusable, find_sources, open_readable
from producer.plan import make_plan
from producer.progress import explained_interrupt, progress_display
from producer.sources import Access, Filters, read_list
from producer.submit import SubmitRequest


@app.command(epilog="Example: producer plan ./images")
def plan(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Folders, files, archives, URLs.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    from_file: FromFile = None,
    null: Null = False,
    limit: MostImages = None,
    model: ModelName = None,
    beam_size: BeamSize = 3,
    stale: Stale = False,
    force: Force = False,
    retry_failed: RetryFailed = False,
    archives: Archives = False,
    follow_symlinks: FollowSymlinks = False,
    list_skipped: ListSkipped = False,
    workers: Annotated[int, typer.Option(min=1, max=100_000, help="Machines like this one that share the work.")] = 1,
    as_json: Json = False,
) -> None:
    """Say how long a submit would take, from a sample of its images.

    Captions up to some seventy images of all sizes on this machine, for up to a minute. Stores nothing.
    """
    settings = read_settings()
    check_options(from_file, null=null, stale=stale, force=force)
    bundle = named(model or settings.model, find_bundles(settings.bundle_folders))
    listed = read_list(from_file, null=null) if from_file else None
    report = render.SkipReport(listed=list_skipped, as_json=as_json)
    request = SubmitRequest(
        sources=find_sources(settings, paths or [], listed, report, writes_nothing=True),
        filters=Filters(tuple(include or ()), tuple(exclude or ()), follow_symlinks, archives),
        bundle=bundle,
        options=DecodeOptions(beam_size=beam_size),
        stale=stale,
        force=force,
        retry_failed=retry_failed,
        limit=limit,
        report=report,
        access=Access.of(settings),
    )
    with explained_interrupt("nothing was stored"), progress_display() as display:
        made = make_plan(open_readable(settings), settings, request, workers, display.update)
    if not made.found:
        raise UsageError(f"no images found. {submitting.hint_without_images(made.skipped)}")
    render_plan.print_plan(made, as_json=as_json)
    exit_if_unusable(request, made.refused)
