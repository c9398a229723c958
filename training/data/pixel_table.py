"""Decoded images in one table of bytes: training from pixels never waits for a JPEG."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioning.atomic import remove_unfinished, replacing
from captioning.model.pixels import Preprocessing, open_image
from captioning.values import PREPROCESSING_VERSION, digest_of
from training.data.corpus import Corpus, file_versions
from training.data.tables import new_table
from training.progress import progress

_AT_ONCE = 256  # images
_DEVICE_SHARE = 0.4  # of the free memory of a GPU, that a table may fill


@dataclass(frozen=True)
class PixelTable:
    """Images by name, each (S, S, 3) uint8 as the product's preprocessing makes it."""

    table: NDArray[np.uint8] | Tensor  # (images, S, S, 3), on disk or on a GPU
    rows: dict[str, int]  # name -> its row

    def get(self, names: Sequence[str], views: Sequence[int] | None = None) -> Tensor:
        """Return images (B, S, S, 3) in uint8, on the table's device. There is only one view of each."""
        rows = [self.rows[name] for name in names]
        if isinstance(self.table, Tensor):
            return self.table[torch.tensor(rows, device=self.table.device)]
        return torch.from_numpy(np.stack([self.table[row] for row in rows]))

    def on(self, device: torch.device) -> "PixelTable":
        """Return a table in the memory of a GPU, where a batch is gathered without the CPU, or this one if it is large.

        A table that does not fit stays on disk: its batches are copied one by one.
        """
        if device.type != "cuda" or isinstance(self.table, Tensor):
            return self
        free, _ = torch.cuda.mem_get_info(device)
        if self.table.nbytes > _DEVICE_SHARE * free:
            return self
        return PixelTable(torch.from_numpy(np.array(self.table)).to(device), self.rows)


def pixels_of(corpus: Corpus, names: Sequence[str], cache: Path) -> PixelTable:
    """Return the table of a corpus's images, from the cache or decoded now, with progress on stderr."""
    size = Preprocessing().size
    key = digest_of([file_versions(corpus.image_folder, names), size, PREPROCESSING_VERSION])[:20]
    path = cache / f"pixels-{key}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        remove_unfinished(cache)
        with replacing(path) as unfinished, progress(f"decoding {len(names)} images") as tick:
            table = new_table(unfinished, (len(names), size, size, 3), np.uint8)
            with ThreadPoolExecutor() as readers:
                for start in range(0, len(names), _AT_ONCE):
                    files = [corpus.image_folder / name for name in names[start : start + _AT_ONCE]]
                    squares = readers.map(lambda file: open_image(file.read_bytes(), size)[0], files)
                    table[start : start + len(files)] = np.stack(list(squares))
                    tick(start + len(files), len(names))
            table.flush()
    return PixelTable(np.load(path, mmap_mode="r"), {name: row for row, name in enumerate(names)})
