"""captionmill from Python: caption images, and read and correct what is stored.

    from captioning import Captioner, open_store

    captioner = Captioner("lstm")
    for caption in captioner.caption(["beach.jpg", "dune.jpg"]):
        print(caption.text, caption.confidence)

    store = open_store()
    for row in store.rows(where="dog confidence>0.6"):
        print(row["path"], row["caption"])

Importing this module loads neither torch nor a database driver; the first `Captioner` and the first `open_store` do.
"""

import io
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.bundles import find_bundles, named
from captioning.errors import ImageError, UsageError
from captioning.paths import possible_paths
from captioning.settings import read_settings
from captioning.values import Caption, DecodeOptions, Reason

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from PIL import Image

    from captioning.store.database import Database
    from captioning.store.history import Undone

    Picture = str | os.PathLike[str] | bytes | NDArray[np.uint8] | Image.Image

__all__ = ["Captioner", "Store", "open_store"]


class Captioner:
    """A model that captions images in this process, without a queue or a database. Not safe for several threads."""

    def __init__(
        self, model: str | None = None, *, device: str = "auto", beam_size: int = 3, batch_size: int = 32
    ) -> None:
        """Load a model by its name, as `producer models` shows it; None: the default model.

        `device` is auto, cpu, cuda, cuda:1 or mps. `beam_size` is the number of hypotheses of the beam search, 1 to 20.
        `batch_size` is how many images the encoder sees at once. Raises UsageError for a model or a device that is not
        there, and BundleError for a model that is damaged.
        """
        from captioning.decoding.capability import decoded_formats
        from captioning.decoding.confinement import Confinement
        from captioning.model.runtime import choose_runtime, load_captioner

        if not 1 <= beam_size <= 20:
            raise UsageError(f"beam_size={beam_size}: give a number from 1 to 20.")
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: give a number from 1 up.")
        settings = read_settings()
        bundle = named(model or settings.model, find_bundles(settings.bundle_folders))
        self.model = bundle.name
        self._captioner = load_captioner(
            bundle,
            choose_runtime("auto", device, settings.precision, settings.compile),
            settings.data_dir / "encoders",
        )
        self._options, self._batch_size = DecodeOptions(beam_size=beam_size), batch_size
        self._formats = decoded_formats(Confinement(), allow_unconfined=settings.allow_unconfined_formats)

    def caption(self, images: "Iterable[Picture] | Picture") -> list[Caption]:
        """Return a caption for each image, in order; `text`, `confidence` (0 to 1) and `unlike` are what most need.

        An image is a path, the bytes of a file, a PIL image, or an array (height, width) or (height, width, 3) of
        uint8, in RGB. This process is not confined, so that files in other than the basic formats need
        CAPTIONING_ALLOW_UNCONFINED_FORMATS=true. Raises ImageError for one that cannot be decoded or captioned, and
        UsageError for anything else.
        """
        from captioning.model.pixels import Limits, open_image

        is_one = isinstance(images, str | bytes | os.PathLike) or hasattr(images, "__array_interface__")
        waiting = iter([images] if is_one else images)  # type: ignore[arg-type]
        size, found = self._captioner.preprocessing.size, []
        while batch := list(islice(waiting, self._batch_size)):
            pixels = [open_image(_bytes_of(image), size, Limits(), self._formats)[0] for image in batch]
            found += self._captioner.caption(pixels, self._options)
            if not all(caption.text for caption in found):
                raise ImageError(Reason.NO_RESULT, "the model computed no numbers for an image")
        return found


def _bytes_of(image: Any) -> bytes:
    """Return an image as the bytes of a file, so that all images are prepared in the same way."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {os.fspath(image)}: {error.strerror}.") from error
    from PIL import Image

    if not isinstance(image, Image.Image):
        try:
            image = Image.fromarray(image)
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"a {type(image).__name__} is no image: give a path, bytes, a PIL image or uint8."
            ) from error
    stream = io.BytesIO()
    mode = image.mode if image.mode in ("1", "L", "LA", "RGB", "RGBA", "P", "I;16") else "RGB"
    image.convert(mode).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class Store:
    """The captions in a database. Opened by `open_store`."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def rows(self, where: str = "", *, job: int | None = None, missing: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the files, each with the caption that it shows, as `producer export` writes them; in constant memory.

        `where` is a query as for `producer search`, for example `dog confidence>0.6`; `missing` adds files that are
        gone. Raises UsageError for a query that cannot be read.
        """
        from captioning.store.captions import Selection, export_rows

        for row in export_rows(self._database, Selection(job, where=where, missing=missing)):
            yield row.as_export()

    def dataframe(self, where: str = "", *, job: int | None = None, missing: bool = False) -> "pd.DataFrame":
        """Return the same rows as a DataFrame of pandas, which must be installed; `captioned_at` is a time."""
        import pandas as pd

        from captioning.store.captions import EXPORT_FIELDS, LATER_FIELDS

        frame = pd.DataFrame(self.rows(where, job=job, missing=missing), columns=[*EXPORT_FIELDS, *LATER_FIELDS])
        frame["captioned_at"] = pd.to_datetime(frame["captioned_at"])
        return frame

    def search(self, query: str, limit: int = 20) -> list[dict[str, Any]]:
        """Return the best files for a query, as `producer search` finds them."""
        from captioning.store.search import search

        return [row.as_export() for row in search(self._database, query, limit)[1]]

    def correct(self, path: str | os.PathLike[str], text: str = "", *, decorative: bool = False) -> dict[str, Any]:
        """Write a person's caption of an image and return its row; `decorative` for one that needs no words.

        Raises UsageError for a path that the database does not know, and for an empty text.
        """
        from captioning.store.edits import checked_text, correct

        if decorative == bool(text.strip()):
            raise UsageError("give either a text or decorative=True, for an image that needs no words.")
        return correct(self._database, self._file_id(path), checked_text(text)).after.as_export()

    def similar(self, path: str | os.PathLike[str], limit: int = 20) -> list[dict[str, Any]]:
        """Return the files that are most like an image, as `producer similar --json` prints them.

        Raises UsageError for a path that the database does not know, and for one that cannot be compared.
        """
        from captioning.store.similar import similar_files

        found = similar_files(self._database, self._file_id(path), limit)
        if found is None:
            raise UsageError(f"{os.fspath(path)} has no features: `producer submit --force` computes them.")
        return [file.as_json() for file in found]

    def duplicates(self, *, job: int | None = None, strict: bool = False) -> list[list[dict[str, Any]]]:
        """Return the clusters of copies and near-duplicates, as `producer duplicates --json` prints them."""
        from captioning.store.similar import find_duplicates

        clusters = find_duplicates(self._database, job=job, strict=strict).clusters
        return [[file.as_json() for file in files] for files in clusters]

    def _file_id(self, path: str | os.PathLike[str]) -> int:
        from captioning.store.files import find_file

        for candidate in possible_paths(os.fsencode(path)):
            file_id = find_file(self._database, candidate)
            if file_id is not None:
                return file_id
        raise UsageError(f"{os.fspath(path)} is not registered: submit it first with `producer submit`.")

    def undo(self, change: int | None = None) -> "Undone":
        """Take back the last change that a person made to captions, or the one with this number."""
        from captioning.store.history import undo

        return undo(self._database, change)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(url: str | None = None) -> Store:
    """Open the database of the settings, or the one at a URL, for example sqlite:///captions.sqlite.

    Raises CaptioningError when it does not answer, or has the tables of another version.
    """
    import migrations
    from captioning.store.database import Database

    if url is not None and "://" not in url:
        raise UsageError(f"{url} is no URL of a database: give one such as sqlite:///captions.sqlite.")
    database = Database(url) if url is not None else Database.open(read_settings())
    if database.is_missing:
        raise UsageError(f"no database at {database.url}: `producer submit FOLDER` creates it.")
    migrations.refuse_other(database)
    return Store(database)
