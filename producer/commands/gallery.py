"""`gallery`: a page of images with their captions."""

from pathlib import Path
from typing import Annotated

import typer

from captioning.decoding.pool import open_pool
from captioning.errors import CaptioningError
from captioning.settings import read_settings
from captioning.store import captions, details, jobs
from captioning.store.captions import Selection, iso_time
from producer import render, render_pages
from producer.commands.shared import Json, Missing, app, check_model, named_value, open_database, optional_job
from producer.content import ContentReader
from producer.gallery import GalleryRequest, prepare_folder, write_gallery
from producer.gallery.thumbnails import SMALL, Thumbnails
from producer.progress import explained_interrupt, progress_display

_MAX_LARGE = 4096  # pixels


@app.command(epilog="Example: producer gallery -o ./gallery --where 'dog confidence>0.5'")
def gallery(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="The folder, new or a gallery.")],
    job: Annotated[int | None, optional_job("all files")] = None,
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="Only images that `search` finds.")] = "",
    model: Annotated[str | None, named_value(help="Prefer this model's captions to the default model's.")] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Default: the name of the job, else captions.")] = "",
    large: Annotated[
        int,
        typer.Option(
            min=0, max=_MAX_LARGE, metavar="PIXELS", help="Longer side in the large view; 0: only small images."
        ),
    ] = 800,
    missing: Missing = False,
    as_json: Json = False,
) -> None:
    """Write a page that shows the images with their captions, for a disk or any web server.

    It needs no network and no other program than a browser. The same command brings it up to date; images that it
    has are not read again.
    """
    settings = read_settings()
    check_model(settings, model)
    db = open_database(settings)
    progress = jobs.progress(db, job)[0] if job is not None else None
    model = model or (progress.model if progress else None)
    selection = Selection(job, model, where=where, missing=missing, partners=False)
    total = captions.count_rows(db, selection)
    prepare_folder(output)
    names = {each.job: each.name for each in jobs.progress(db)}
    request = GalleryRequest(
        output, title or (progress.name if progress else "captions"), names, iso_time(jobs.clock(db))
    )
    pool = open_pool(settings, max(large, SMALL), keep_aspect=True)
    try:
        with (
            explained_interrupt("thumbnails are kept, and the same command continues"),
            progress_display() as display,
            ContentReader(settings) as reader,
        ):
            rows = details.with_details(db, captions.export_rows(db, selection))
            thumbnails = Thumbnails(output, pool, large, reader)
            done = write_gallery(request, rows, thumbnails, lambda n: display.update("images", n, total))
    except OSError as error:
        raise CaptioningError(
            f"the gallery in {output} cannot be written: {error.strerror}. Run the command again."
        ) from None
    finally:
        pool.close()
    if as_json:
        render.print_json(
            {
                "index": str(output / "index.html"),
                "images": done.images,
                "without_thumbnail": done.without_thumbnail,
                "bytes": done.bytes,
            }
        )
    else:
        render_pages.print_gallery(output, done)
