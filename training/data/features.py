"""Encoder features of images, computed once and cached on disk as float16, one file for each view.

There are two depths: `grid`, which a decoder reads, and `stage4`, from which stage 5 of the encoder can learn. There
are four views: the whole image, its mirror image, a random crop and a mirrored random crop (Szegedy et al. 2015,
arXiv:1409.4842). Odd views are mirrored. A crop depends on the image's name only, so a cache can be computed again.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captioning.atomic import remove_unfinished, replacing
from captioning.model.encoder import PixelsToGrid
from captioning.model.pixels import Pixels, Preprocessing, open_image
from captioning.model.precision import best_precision
from captioning.model.runtime import optimize_for_inference
from captioning.values import PREPROCESSING_VERSION, digest_of
from training.data.corpus import Corpus, file_versions
from training.data.encoders import EncoderFile
from training.data.tables import Table, new_table
from training.progress import Tick, progress

Depth = Literal["stage4", "grid"]
BATCH = 32
VIEWS = 4
_CROP_SOURCE = 1.25  # side of the square that crops are cut from, as a multiple of the model's input
_SHORTEST_SIDE = 0.8  # of a crop, as a share of that square


@dataclass(frozen=True)
class Features:
    """Feature maps of images by name: (H, W, C) each for stage4, (N, C) for grid."""

    views: tuple[NDArray[np.float16], ...]  # one table a view, one row an image
    rows: dict[str, int]  # name -> its row

    def get(self, names: Sequence[str], views: Sequence[int] | None = None) -> Tensor:
        """Return the maps of images (B, ...) in bfloat16; of the whole images when `views` is not given."""
        maps = [self.views[view][self.rows[name]] for name, view in zip(names, views or [0] * len(names), strict=True)]
        return torch.from_numpy(np.stack(maps)).to(torch.bfloat16)


def is_mirrored(view: int) -> bool:
    """Return whether left and right are exchanged in a view."""
    return view % 2 == 1


def features_of(
    encoder: EncoderFile, corpus: Corpus, names: tuple[str, ...], depth: Depth, cache: Path, views: int = 1
) -> Features:
    """Return the encoder's features of a corpus's images, from the cache or computed now, with progress on stderr."""
    with progress(f"{depth} features of {len(names)} images") as tick:
        return cached_features(
            encoder.load, encoder.digest, corpus.image_folder, names, depth, cache, views=views, tick=tick
        )


def cached_features(
    load: Callable[[], PixelsToGrid],
    identity: str,
    folder: Path,
    names: Sequence[str],
    depth: Depth,
    cache: Path,
    *,
    views: int = 1,
    tick: Tick = lambda done, total: None,
) -> Features:
    """Return the features of the images `names` in `folder`, from the cache if it has them.

    `identity` is the digest of the encoder's weights. The cache key consists of it, the files' sizes and times, the
    depth and the version of the preprocessing. `load` returns the encoder; it is called once, and only when features
    are missing. They are computed on a GPU if there is one. A table appears in the cache when it is complete.
    """
    cache.mkdir(parents=True, exist_ok=True)
    remove_unfinished(cache)  # tables of a process that was killed: gigabytes
    files = [table_file(identity, folder, names, depth, cache, view) for view in range(views)]
    missing = [view for view, path in enumerate(files) if not path.exists()]
    if missing:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = optimize_for_inference(load(), device, best_precision(device))
        paths = [folder / name for name in names]
        total = len(missing) * len(names)
        for i, view in enumerate(missing):
            _compute(network, paths, view, depth, files[view], lambda n, i=i: tick(i * len(names) + n, total))  # type: ignore[misc]
    return Features(tuple(np.load(path, mmap_mode="r") for path in files), {name: i for i, name in enumerate(names)})


def table_file(identity: str, folder: Path, names: Sequence[str], depth: Depth, cache: Path, view: int = 0) -> Path:
    """Return the file in the cache that has, or would have, the features of a view of images."""
    key = digest_of([identity, file_versions(folder, names), depth, PREPROCESSING_VERSION])[:20]
    return cache / f"{depth}-{key}-view{view}.npy"


def _compute(
    network: PixelsToGrid, paths: list[Path], view: int, depth: Depth, out: Path, tick: Callable[[int], None]
) -> None:
    """Write one table. Two processes may compute the same one at once: each writes a file of its own."""
    table: Table | None = None
    with replacing(out) as unfinished, torch.inference_mode():
        for start, pixels in _pixels(paths, view):
            maps = _encode(network, pixels.to(network.scale.device), depth).to(torch.float16).cpu().numpy()
            if table is None:
                table = new_table(unfinished, (len(paths), *maps.shape[1:]), np.float16)
            table[start : start + len(maps)] = maps
            tick(start + len(maps))
        if table is not None:
            table.flush()


def _encode(network: PixelsToGrid, pixels: Tensor, depth: Depth) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, N, 2048) for grid, (B, S/16, S/16, 1024) for stage4."""
    if depth == "grid":
        return network(pixels)  # type: ignore[no-any-return]
    x = pixels.permute(0, 3, 1, 2).to(network.scale.dtype)
    return network.encoder.stage4(x * network.scale + network.shift).permute(0, 2, 3, 1)


def _pixels(paths: list[Path], view: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the index of a batch's first image, and the batch (B, S, S, 3) uint8."""
    for start in range(0, len(paths), BATCH):
        squares = [view_of(path.read_bytes(), view, path.name) for path in paths[start : start + BATCH]]
        yield start, torch.from_numpy(np.stack(squares))


def view_of(data: bytes, view: int, name: str) -> Pixels:
    """Return one view of an encoded image, (S, S, 3) uint8."""
    size = Preprocessing().size
    if view < 2:
        pixels, _ = open_image(data, size)
    else:
        source, _ = open_image(data, round(size * _CROP_SOURCE))
        pixels = _crop(source, size, random.Random(f"{name}/{view}"))
    return np.ascontiguousarray(pixels[:, ::-1]) if is_mirrored(view) else pixels


def _crop(source: Pixels, size: int, rng: random.Random) -> Pixels:
    side = source.shape[0]
    width, height = (rng.uniform(_SHORTEST_SIDE, 1) * side for _ in range(2))
    left, top = rng.uniform(0, side - width), rng.uniform(0, side - height)
    box = (left, top, left + width, top + height)
    return np.asarray(Image.fromarray(source).resize((size, size), Image.Resampling.BICUBIC, box=box))
