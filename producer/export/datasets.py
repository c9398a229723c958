"""Captions in the forms that training tools read: Hugging Face's imagefolder, COCO and WebDataset.

They have only images with captions that fit the present content, see `fitting` in `captioning.store.captions`.
"""

import csv
import hashlib
import io
import json
import os
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from captioning.archives import split_member
from captioning.atomic import new_folder, remove_unfinished
from captioning.errors import UsageError
from captioning.store.captions import FileRow
from captioning.values import Source
from producer.export.output import STANDARD_OUTPUT, Announce, announce_nothing, open_text

TextOf = Callable[[FileRow], str]
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


def write_imagefolder(
    rows: Iterable[FileRow], output: str, text_of: TextOf, column: str, *, announce: Announce = announce_nothing
) -> int:
    """Write `metadata.jsonl` of Hugging Face's imagefolder; return the number of rows.

    Names are relative to the folder of the file, which must have the images in or below it. Raises UsageError when it
    has not.
    """
    if column.strip() in ("", "file_name"):
        raise UsageError(f"--caption-column {column!r} cannot be: give another name, for example text or caption.")
    if output == STANDARD_OUTPUT:
        raise UsageError("hf names images relative to its file: give -o, for example -o PHOTOS/metadata.jsonl.")
    folder = os.path.realpath(Path(output).parent)
    count = 0
    with open_text(output, announce) as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007, returned after the loop
            if split_member(row.path_bytes) is not None:
                raise UsageError(
                    f"{row.path} is in an archive, from which no imagefolder is read: choose images in folders with"
                    " --where 'path:...', or export webdataset."
                )
            inside = os.path.relpath(row.path, folder)
            if inside.startswith("../"):
                raise UsageError(
                    f"{row.path} is not below {folder}: write the file into the folder that has the images, or choose"
                    " some with --where 'path:...'."
                )
            file.write(json.dumps({"file_name": inside, column: text_of(row)}, ensure_ascii=False) + "\n")
    return count


def write_coco_results(
    rows: Iterable[FileRow], output: str, text_of: TextOf, *, announce: Announce = announce_nothing
) -> int:
    """Write COCO's results, a list of `image_id` and `caption`; return the number of rows."""
    count = 0
    with open_text(output, announce) as file:
        file.write("[")
        for count, row in enumerate(rows, start=1):
            line = json.dumps({"image_id": row.file_id, "caption": text_of(row)}, ensure_ascii=False)
            file.write((",\n" if count > 1 else "\n") + line)
        file.write("\n]\n")
    return count


def write_coco(rows: Iterable[FileRow], output: str, text_of: TextOf, *, announce: Announce = announce_nothing) -> int:
    """Write COCO's captions: images and annotations; return the number of rows.

    The annotations wait in a temporary file, because they come after all images.
    """
    count = 0
    with open_text(output, announce) as file, tempfile.TemporaryFile("w+", encoding="utf-8") as waiting:
        file.write('{"info": {"description": "captionmill"}, "licenses": [], "images": [')
        for count, row in enumerate(rows, start=1):
            comma = ",\n" if count > 1 else "\n"
            image = {"id": row.file_id, "file_name": row.path, "width": row.width, "height": row.height}
            annotation = {"id": row.file_id, "image_id": row.file_id, "caption": text_of(row)}
            file.write(comma + json.dumps(image, ensure_ascii=False))
            waiting.write(comma + json.dumps(annotation, ensure_ascii=False))
        file.write('\n], "annotations": [')
        waiting.seek(0)
        for line in waiting:
            file.write(line)
        file.write("\n]}\n")
    return count


ReadBytes = Callable[[bytes], bytes | None]
"""Returns the content of a file, None if it cannot be read."""


class ImageExport(ABC):
    """A folder that has the images themselves. Files that are not what was captioned any more are left out."""

    name: str  # of the format
    nothing = "no caption fits the options"  # why there may be nothing to write

    def __init__(self, folder: str, read: ReadBytes) -> None:
        """`read` returns the content of a file, None if it cannot be read.

        Raises UsageError when the folder exists, because old files would stay in it.
        """
        self.folder = Path(folder)
        self._read_bytes = read
        self.left_out: list[str] = []  # paths of files that have changed since, or cannot be read
        if folder == STANDARD_OUTPUT:
            raise UsageError(f"{self.name} writes a folder: name a new one with -o.")
        if self.folder.exists():
            raise UsageError(f"{folder} exists: name a new folder, so that no old file stays in it.")

    def write(self, rows: Iterable[FileRow], text_of: TextOf) -> int:
        """Write the folder, which appears when it is complete; return the number of images. Raises UsageError."""
        readable = ((row, data) for row in rows if (data := self._read(row)) is not None)
        remove_unfinished(self.folder.parent)  # of an export that was killed
        try:
            with new_folder(self.folder) as folder:
                count = self._fill(folder, readable, text_of)
                if not count:
                    raise UsageError(f"nothing to export to {self.folder}: {self.nothing}.")
                return count
        except OSError as error:
            raise UsageError(f"cannot write to {self.folder}: {error.strerror}.") from None

    @abstractmethod
    def _fill(self, folder: Path, images: Iterator[tuple[FileRow, bytes]], text_of: TextOf) -> int:
        """Write the images and their captions into an empty folder; return the number of images."""

    def _read(self, row: FileRow) -> bytes | None:
        """Return the bytes of a file if they are those that were captioned."""
        data = self._read_bytes(row.path_bytes) or b""
        if hashlib.sha256(data).hexdigest() == row.sha256:
            return data
        self.left_out.append(row.path)
        return None


def _name_of(row: FileRow) -> str:
    """Return the name of an image in a folder of many: by the number of its file, which no other image has."""
    return f"{row.file_id:012d}.{_EXTENSIONS.get(row.format or '', 'jpg')}"


class Shards(ImageExport):
    """WebDataset shards: tar files with `KEY.jpg`, `KEY.json` and `KEY.txt` of each image, in constant memory."""

    name = "webdataset"

    def __init__(self, folder: str, read: ReadBytes, size: int) -> None:
        """`size` is how many images a shard has."""
        super().__init__(folder, read)
        self.size = size

    def _fill(self, folder: Path, images: Iterator[tuple[FileRow, bytes]], text_of: TextOf) -> int:
        count = 0
        while first := list(islice(images, 1)):
            name = folder / f"{count // self.size:06d}.tar"
            with tarfile.open(name, "w", format=tarfile.USTAR_FORMAT) as shard:
                for row, data in chain(first, islice(images, self.size - 1)):
                    _add(shard, row, data, text_of(row))
                    count += 1
        return count


def _add(shard: tarfile.TarFile, row: FileRow, data: bytes, text: str) -> None:
    """Add the three members of an image. Times and owners are fixed: the same export has the same bytes."""
    name = _name_of(row)
    key = name.partition(".")[0]
    described = json.dumps(row.as_export() | {"text": text}, ensure_ascii=False).encode()
    for member, content in ((name, data), (f"{key}.json", described), (f"{key}.txt", text.encode())):
        info = tarfile.TarInfo(member)
        info.size = len(content)
        shard.addfile(info, io.BytesIO(content))


class TrainingFolder(ImageExport):
    """A folder as `training train --data` reads it: `Images/` and captions.txt, with captions of people only."""

    name = "training"
    nothing = "no such caption was written or accepted by a person: see `producer correct` and `producer accept`"

    def _fill(self, folder: Path, images: Iterator[tuple[FileRow, bytes]], text_of: TextOf) -> int:
        (folder / "Images").mkdir()
        count = 0
        with (folder / "captions.txt").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "caption"])
            for row, data in images:
                if row.source != Source.HUMAN or not row.caption:
                    continue
                (folder / "Images" / _name_of(row)).write_bytes(data)
                writer.writerow([_name_of(row), " ".join(text_of(row).split())])
                count += 1
        return count
