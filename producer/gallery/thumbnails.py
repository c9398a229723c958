"""Small JPEGs of images for a page. Untrusted files are decoded in decode processes; what they return is written anew.

A thumbnail is named after the content of its image, so one that exists is never made again, and never shows another
image: the file's bytes must have the SHA-256 that its caption was made for.
"""

import errno
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from captioning.atomic import replacing
from captioning.decoding.pool import DecodePool
from captioning.errors import ImageError
from captioning.model.pixels import Pixels
from captioning.store.captions import FileRow
from producer.content import ContentReader

SMALL = 320  # pixels of the longer side, in lists
QUALITY = 80  # of the JPEGs


@dataclass(frozen=True)
class Thumbnails:
    """The folders with the small images (`small`) and those of the large view (`large`, if they are wanted)."""

    folder: Path
    pool: DecodePool
    large: int  # pixels of the longer side; 0: none
    reader: ContentReader

    def make(self, file: FileRow) -> str:
        """Return the name of the thumbnail of a file, made if it does not exist; empty if it cannot be made."""
        if file.sha256 is None:
            return ""
        name = f"{file.sha256[:2]}/{file.sha256[2:22]}.jpg"
        wanted = [(self.folder / kind / name, size) for kind, size in (("small", SMALL), ("large", self.large)) if size]
        missing = [(path, size) for path, size in wanted if not _is_written(path)]
        if not missing:
            return name
        try:
            data = read_content(self.reader, file)
            pixels = self.pool.decode(data).pixels
        except (ImageError, OSError):  # the page shows the reason of the failure, or that there is no image
            return ""
        for path, size in missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, sync=False) as unfinished:
                unfinished.write_bytes(jpeg(pixels, size))
        return name


def _is_written(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def jpeg(pixels: Pixels, size: int) -> bytes:
    """Return pixels as a JPEG, the longer side at most `size`."""
    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def read_content(reader: ContentReader, file: FileRow) -> bytes:
    """Return the content of a file if it is still what its row names. Raises OSError otherwise, or ImageError."""
    data = reader.read(file.path_bytes)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise OSError(errno.ESTALE, "the file has other content now")
    return data
