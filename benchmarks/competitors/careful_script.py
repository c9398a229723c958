"""A careful script: DataLoader, batches, folded batch norm, channels_last, the faster precision, beam 3, CSV.

One process decodes while torch computes on all cores. The other numbers of processes and threads, and both precisions,
are TRIED in `benchmarks.compare_rows`. torch.compile is left out: compiling takes longer than a thousand images.
"""

import csv
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.competitors.common import BATCH, arguments, bundle_of, note_finished, pixels_of, plain_captioner
from captioning.environment import available_cores
from captioning.model.encoder import PixelsToGrid, fold_batch_norm
from captioning.model.pixels import Pixels
from captioning.model.precision import best_precision, torch_dtype


class Images(Dataset[tuple[str, Pixels]]):
    """Names and pixels of image files."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[str, Pixels]:
        return self._paths[index].name, pixels_of(self._paths[index])


def prepared(network: PixelsToGrid, precision: str = "auto") -> PixelsToGrid:
    """Return the encoder as torch computes it fastest; bf16 only where this CPU is faster with it, by a measurement."""
    fold_batch_norm(network.encoder)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(precision, torch_dtype(best_precision("cpu")))
    return network.to(dtype=dtype, memory_format=torch.channels_last)


def main() -> None:
    cores = available_cores()
    given = arguments(__doc__, workers=max(1, cores - 1), threads=cores, precision="auto", batch=BATCH)
    torch.set_num_threads(given.threads)
    captioner = plain_captioner(bundle_of(given.model), lambda network: prepared(network, given.precision))
    loader = DataLoader(
        Images(given.images),
        batch_size=given.batch,
        num_workers=given.workers,
        prefetch_factor=2 if given.workers else None,
        collate_fn=lambda pairs: pairs,  # pixels are stacked by the captioner
    )
    with (given.out / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for batch in loader:
            names, images = zip(*batch, strict=True)
            captions = captioner.caption(images, given.options)
            rows.writerows((name, caption.text) for name, caption in zip(names, captions, strict=True))
            note_finished(given.out, len(names))


if __name__ == "__main__":
    main()
