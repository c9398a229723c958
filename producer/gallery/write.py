"""Write a gallery into a folder, or bring an older one up to date.

The data are in scripts, because a page from a disk may not fetch other files. Each run writes them into a new folder;
then it replaces `index.html`, which names that folder, and deletes what no page names any more. So a run that is killed
leaves the older gallery as it was.
"""

import functools
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from captioning.atomic import remove_unfinished, write_text
from captioning.errors import UsageError
from captioning.store.captions import FileRow
from captioning.store.details import DetailedFile
from producer.gallery.rows import FIELDS, Encoder, details
from producer.gallery.thumbnails import Thumbnails

LIST_ROWS = 2000  # in a script with rows
DETAIL_ROWS = 250  # in a script with details, which the large view loads
PAGE_FILES = ("page.css", "rows.js", "select.js", "grid.js", "viewer.js", "filters.js", "main.js")
"""The files of the page; the scripts in the order in which they are loaded."""

MARKER = "captionmill-gallery.json"
"""A file that says that the folder is a gallery, which may be overwritten."""

_DATA, _PAGE = "data-", "page-"  # of the folders that each run writes anew


@dataclass(frozen=True)
class GalleryRequest:
    """Which gallery to write."""

    folder: Path
    title: str
    job_names: dict[int, str]
    made_at: str  # ISO 8601, UTC


@dataclass
class Gallery:
    """What was written."""

    images: int = 0
    without_thumbnail: int = 0  # captioned images that could not be read again
    bytes: int = 0  # on disk
    thumbnails: set[str] = field(default_factory=set)  # their names


def prepare_folder(folder: Path) -> None:
    """Create the folder of a gallery. Raises UsageError for one with other files, which might be somebody's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / MARKER).is_file():
            raise UsageError(f"{folder} has other files and is no gallery: name a new or an empty folder.")
        write_text(folder / MARKER, json.dumps({"written_by": "captionmill"}) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write a gallery to {folder}: {error.strerror}. Name another folder.") from None


def write_gallery(
    request: GalleryRequest,
    items: Iterator[DetailedFile],
    thumbnails: Thumbnails,
    on_progress: Callable[[int], object],
) -> Gallery:
    """Write the gallery of files to a folder that `prepare_folder` has made. Raises OSError when the disk is full."""
    folder, generation = request.folder, secrets.token_hex(4)
    for kind in ("small", "large"):
        for unfinished in (folder / kind).glob("*"):
            remove_unfinished(unfinished)
    data, page = folder / f"{_DATA}{generation}", folder / f"{_PAGE}{generation}"
    data.mkdir()
    done, encoder = Gallery(), Encoder()
    with ThreadPoolExecutor(thumbnails.pool.count, thread_name_prefix="thumbnails") as threads:
        names = functools.partial(threads.map, thumbnails.make)
        for number in _write_shards(data, items, names, encoder, done):
            on_progress(number)
    _write_script(data / "meta.js", "meta", 0, _meta(request, data.name, encoder, done) | {"large": thumbnails.large})
    page.mkdir()
    for name in PAGE_FILES:
        (page / name).write_text(page_file(name), encoding="utf-8")
    write_text(folder / "index.html", index_html(f"{page.name}/", [f"{data.name}/meta.js", f"{data.name}/list-0.js"]))
    _remove_outdated(folder, {data.name, page.name}, done)
    done.bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return done


def page_file(name: str) -> str:
    """Return a file of the page."""
    return (files("producer.gallery") / "page" / name).read_text(encoding="utf-8")


def index_html(page: str, data: list[str], mode: str = "gallery", extra: tuple[str, ...] = ()) -> str:
    """Return the page in one of its modes, gallery or review.

    `page` is the folder of its files, `data` are scripts with data, `extra` other scripts of the page.
    """
    scripts = [f"{page}{name}" for name in (*PAGE_FILES[1:-1], *extra, PAGE_FILES[-1])]
    tags = "\n".join(f'<script defer src="{source}"></script>' for source in (*scripts, *data))
    return page_file("index.html").replace("{page}", page).replace("{mode}", mode).replace("<!-- scripts -->", tags)


def _write_shards(
    folder: Path,
    items: Iterator[DetailedFile],
    thumbnail_names: Callable[[list[FileRow]], Iterator[str]],
    encoder: Encoder,
    done: Gallery,
) -> Iterator[int]:
    """Write rows and details; yield the number of images written so far. `thumbnail_names` makes the thumbnails."""
    shard = 0
    while True:
        rows: list[list[Any]] = []
        while len(rows) < LIST_ROWS and (part := list(islice(items, DETAIL_ROWS))):
            number = done.images // DETAIL_ROWS
            _write_script(folder / f"details-{number}.js", "details", number, [details(item) for item in part])
            for item, name in zip(part, thumbnail_names([i.file for i in part]), strict=True):
                rows.append(encoder.row(item, name))
                done.thumbnails.add(name)
                done.without_thumbnail += not name and item.file.caption is not None
            done.images += len(part)
            yield done.images
        if not rows and shard:
            return
        _write_script(folder / f"list-{shard}.js", "list", shard, rows)
        shard += 1


def _meta(request: GalleryRequest, data: str, encoder: Encoder, done: Gallery) -> dict[str, Any]:
    return {
        "title": request.title,
        "made_at": request.made_at,
        "data": data,
        "count": done.images,
        "fields": FIELDS,
        "list_rows": LIST_ROWS,
        "detail_rows": DETAIL_ROWS,
        "roots": encoder.roots.values,
        "models": encoder.models.values,
        "jobs": [[job, request.job_names.get(job, "")] for job in sorted(encoder.jobs, reverse=True)],
    }


def _write_script(path: Path, name: str, number: int, value: Any) -> None:
    """Write data as a call of captionmill.NAME. It is ASCII, so that no character ends a string or a script."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    path.write_text(f'captionmill.receive("{name}",{number},{text});\n', encoding="ascii")


def _remove_outdated(folder: Path, in_use: set[str], done: Gallery) -> None:
    """Delete the data and pages of earlier runs, and thumbnails of images that the gallery does not have any more."""
    for path in folder.iterdir():
        if path.name.startswith((_DATA, _PAGE)) and path.name not in in_use and path.is_dir():
            shutil.rmtree(path)
    for kind in ("small", "large"):
        for path in (folder / kind).glob("??/*.jpg"):
            if f"{path.parent.name}/{path.name}" not in done.thumbnails:
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
