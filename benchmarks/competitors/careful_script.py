"""A careful script: DataLoader, batches, folded batch norm, channels_last, the faster precision, beam 3, CSV.

Tried on two cores: see TRIED.
"""

import csv

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.competitors.common import BATCH, arguments, bundle_of, note_finished, pixels_of, plain_captioner
from captioning.decoding.pool import available_cores
from captioning.model.encoder import PixelsToGrid, fold_batch_norm
from captioning.model.pixels import Pixels
from captioning.model.precision import best_precision, torch_dtype

WORKERS = max(1, available_cores() - 1)  # processes that decode
THREADS = available_cores()  # of torch


class Images(Dataset[tuple[str, Pixels]]):
    """Names and pixels of image files."""

    def __init__(self, paths: list) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[str, Pixels]:
        return self._paths[index].name, pixels_of(self._paths[index])


def prepared(network: PixelsToGrid) -> PixelsToGrid:
    """Return the encoder as torch computes it fastest; bf16 only where this CPU is faster with it, by a measurement."""
    fold_batch_norm(network.encoder)
    return network.to(dtype=torch_dtype(best_precision("cpu")), memory_format=torch.channels_last)


def main() -> None:
    given = arguments(__doc__)
    torch.set_num_threads(THREADS)
    captioner = plain_captioner(bundle_of(given.model), prepared)
    loader = DataLoader(
        Images(given.images),
        batch_size=BATCH,
        num_workers=WORKERS,
        prefetch_factor=2 if WORKERS else None,
        collate_fn=lambda pairs: pairs,  # pixels are stacked by the captioner
    )
    with (given.out / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for batch in loader:
            names, images = zip(*batch, strict=True)
            captions = captioner.caption([np.asarray(pixels) for pixels in images], given.options)
            rows.writerows((name, caption.text) for name, caption in zip(names, captions, strict=True))
            note_finished(given.out, len(names))


if __name__ == "__main__":
    main()
