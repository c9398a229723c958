"""Exports: the registry of formats. A format is a table, a file for a training tool, or sidecars of images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from captioning.errors import UsageError
from captioning.store.captions import FileRow
from producer.export import datasets, tables
from producer.export.forms import Form, TextForm, XmpForm
from producer.export.output import STANDARD_OUTPUT, Announce, announce_nothing

TextOf = Callable[[FileRow], str]


class Target(Enum):
    """What a format is written to."""

    FILE = auto()
    FOLDER = auto()
    SIDECARS = auto()


@dataclass(frozen=True)
class WriteOptions:
    """Options that only some formats have."""

    excel: bool = False  # csv
    caption_column: str = "text"  # hf
    shard_size: int = 10_000  # webdataset, images
    with_full_name: bool = False  # xmp
    with_text: bool = False  # tables: rows have a caption with words around it
    announce: Announce = announce_nothing  # files


@dataclass(frozen=True)
class Format:
    """A format of an export."""

    about: str
    endings: tuple[str, ...] = ()  # of files that are of this format
    name: str = ""  # of the file, where its reader wants this one
    target: Target = Target.FILE
    fitting: bool = True  # only captions that fit the present content; tables have the others too, with a mark
    write: Callable[[Iterable[FileRow], str, TextOf, WriteOptions], int] | None = None
    form: Callable[[WriteOptions], Form] | None = None  # of sidecars
    folder: Callable[[str, WriteOptions, datasets.ReadBytes], datasets.ImageExport] | None = None  # with the images

    @property
    def has_partners(self) -> bool:
        """Whether files that share the caption of an image beside them are exported too; no reader could open them."""
        return self.target is Target.SIDECARS or not self.fitting


FORMATS: dict[str, Format] = {
    "jsonl": Format(
        "JSON lines", (".jsonl", ".ndjson"), fitting=False,
        write=lambda rows, output, text_of, options: tables.write_jsonl(rows, output, announce=options.announce),
    ),
    "csv": Format(
        "CSV", (".csv",), fitting=False,
        write=lambda rows, output, text_of, options: tables.write_csv(
            rows, output, excel=options.excel, with_text=options.with_text, announce=options.announce
        ),
    ),
    "parquet": Format(
        "Parquet", (".parquet", ".pq"), fitting=False,
        write=lambda rows, output, text_of, options: tables.write_parquet(
            rows, output, with_text=options.with_text, announce=options.announce
        ),
    ),
    "txt": Format("a text file for each image", target=Target.SIDECARS, form=lambda options: TextForm("txt")),
    "caption": Format("the same, named .caption", target=Target.SIDECARS, form=lambda options: TextForm("caption")),
    "xmp": Format(
        "an XMP sidecar for each image", target=Target.SIDECARS, form=lambda options: XmpForm(options.with_full_name)
    ),
    "hf": Format(
        "metadata.jsonl of Hugging Face's imagefolder", (".jsonl",), "metadata.jsonl",
        write=lambda rows, output, text_of, options: datasets.write_imagefolder(
            rows, output, text_of, options.caption_column, announce=options.announce
        ),
    ),
    "coco": Format(
        "COCO's captions", (".json",),
        write=lambda rows, output, text_of, options: datasets.write_coco(
            rows, output, text_of, announce=options.announce
        ),
    ),
    "coco-results": Format(
        "COCO's results", (".json",),
        write=lambda rows, output, text_of, options: datasets.write_coco_results(
            rows, output, text_of, announce=options.announce
        ),
    ),
    "webdataset": Format(
        "tar files with images and captions", target=Target.FOLDER,
        folder=lambda output, options, read: datasets.Shards(output, read, options.shard_size),
    ),
    "training": Format(
        "a folder for `training train --data`, with captions of people", target=Target.FOLDER,
        folder=lambda output, options, read: datasets.TrainingFolder(output, read),
    ),
}  # fmt: skip
"""Every format, by its name on the command line. The first one is the default."""

DEFAULT = next(iter(FORMATS))


def format_of(name: str | None, output: str) -> str:
    """Return the name of the format: the given one, or that of the file's ending. Raises UsageError if they differ."""
    ending = Path(output).suffix.lower()
    if name is None and (output == STANDARD_OUTPUT or not ending):
        return DEFAULT
    of_ending = next((known for known, form in FORMATS.items() if ending in form.endings), None)
    if name is None:
        if of_ending is None:
            endings = ", ".join(dict.fromkeys(e for form in FORMATS.values() for e in form.endings))
            raise UsageError(f"{output} does not tell the format: add --format, or use one of {endings}.")
        return of_ending
    form = FORMATS[name]
    if output == STANDARD_OUTPUT:
        return name
    if form.name and Path(output).name != form.name:
        raise UsageError(f"{output}: the file of {name} must be called {form.name}, or its reader does not find it.")
    if ending and ((form.endings and ending not in form.endings) or (not form.endings and of_ending)):
        hint = f"end its name with {form.endings[0]}" if form.endings else "name a folder"
        raise UsageError(f"{output} is no name for {name}: {hint}, or leave out --format.")
    return name
