"""What the encoder sees of every image, computed once and kept on disk as float16, a file a view.

Two depths: `grid`, what a decoder reads, and `stage4`, from which stage 5 of the encoder can learn. Four views:
the whole image, its mirror image, a random crop and a mirrored random crop (Szegedy et al. 2015,
arXiv:1409.4842); odd views are mirrored. A crop is a function of the image's name, so a cache can be made again.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captioning.model.encoder import PixelsToGrid, fold_batch_norm
from captioning.model.pixels import VERSION, Pixels, open_image
from captioning.values import digest_of

Depth = Literal["stage4", "grid"]
BATCH = 32
VIEWS = 4
_SIZE = 224
_CROP_FROM = 280  # pixels a side of the square that crops are taken from
_SHORTEST_SIDE = 0.8  # of a crop, as a share of the whole


@dataclass(frozen=True)
class Features:
    """Maps of images by name: (H, W, C) each for stage4, (N, C) for grid."""

    views: tuple[NDArray[np.float16], ...]  # one table a view, one row an image
    rows: dict[str, int]  # name -> its row

    def get(self, names: Sequence[str], views: Sequence[int] | None = None) -> Tensor:
        """Return the maps of images (B, ...) in bfloat16, of the given views, else of the whole images."""
        found = [self.views[v][self.rows[n]] for n, v in zip(names, views or [0] * len(names), strict=True)]
        return torch.from_numpy(np.stack(found)).to(torch.bfloat16)


def is_mirrored(view: int) -> bool:
    """Tell whether left and right are exchanged in a view."""
    return view % 2 == 1


def cached_features(
    network: Callable[[], PixelsToGrid],
    identity: str,
    folder: Path,
    names: Sequence[str],
    depth: Depth,
    cache: Path,
    *,
    views: int = 1,
    tick: Callable[[int, int], None] = lambda done, of: None,
) -> Features:
    """Return the features of `names` in `folder`, from the cache when the same were computed before.

    `identity` is the digest of the encoder's weights: the cache key, with the files, the depth and the
    preprocessing. `network` is called once, when something must be computed: on a GPU if there is one.
    `tick(done, of)` is called as images are finished. A table appears when it is whole.
    """
    cache.mkdir(parents=True, exist_ok=True)
    key = digest_of([identity, files_of(folder, names), depth, VERSION])[:20]
    files = [cache / f"{depth}-{key}-view{view}.npy" for view in range(views)]
    missing = [view for view, path in enumerate(files) if not path.exists()]
    if missing:
        folded = network()
        fold_batch_norm(folded.encoder)
        device, kind = _where()
        folded = folded.to(device, kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for done, view in enumerate(missing):
            report = lambda n, done=done: tick(done * len(names) + n, len(missing) * len(names))  # noqa: E731
            _compute(folded, [folder / name for name in names], view, depth, files[view], report)
    return Features(tuple(np.load(path, mmap_mode="r") for path in files), {name: i for i, name in enumerate(names)})


def files_of(folder: Path, names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return what tells images from others of their names: size in bytes, and time of change in nanoseconds."""
    stats = [(name, (folder / name).stat()) for name in names]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _where() -> tuple[str, torch.dtype]:
    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return "cpu", torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def _compute(
    network: PixelsToGrid, paths: list[Path], view: int, depth: Depth, out: Path, tick: Callable[[int], None]
) -> None:
    handle, path = tempfile.mkstemp(dir=out.parent, suffix=".part")  # of its own: two may compute the same at once
    os.close(handle)
    unfinished = Path(path)
    table: np.memmap[tuple[int, ...], np.dtype[np.float16]] | None = None
    try:
        with torch.inference_mode():
            for at, pixels in _batches(paths, view):
                found = _look(network, pixels.to(network.scale.device), depth).to(torch.float16).cpu().numpy()
                if table is None:
                    table = _table(unfinished, (len(paths), *found.shape[1:]))
                table[at : at + len(found)] = found
                tick(at + len(found))
        if table is not None:
            table.flush()
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _table(path: Path, shape: tuple[int, ...]) -> "np.memmap[tuple[int, ...], np.dtype[np.float16]]":
    """Make an empty table whose place on the disk is taken now: a full one would kill us later, without a word."""
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        size = path.stat().st_size
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(error.errno, f"{size / 1e9:.1f} GB of features: {error.strerror}", path.parent) from None
    return table


def _look(network: PixelsToGrid, pixels: Tensor, depth: Depth) -> Tensor:
    if depth == "grid":
        return network(pixels)  # type: ignore[no-any-return]
    x = pixels.permute(0, 3, 1, 2).to(network.scale.dtype)
    return network.encoder.stage4(x * network.scale + network.shift).permute(0, 2, 3, 1)


def _batches(paths: list[Path], view: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(paths), BATCH):
        squares = [view_of(path.read_bytes(), view, path.name) for path in paths[start : start + BATCH]]
        yield start, torch.from_numpy(np.stack(squares))


def view_of(data: bytes, view: int, name: str) -> Pixels:
    """Return one view of an encoded image, (224, 224, 3) uint8."""
    if view < 2:
        pixels, _ = open_image(data, _SIZE)
    else:
        whole, _ = open_image(data, _CROP_FROM)
        pixels = _cropped(whole, random.Random(f"{name}/{view}"))
    return np.ascontiguousarray(pixels[:, ::-1]) if is_mirrored(view) else pixels


def _cropped(whole: Pixels, chance: random.Random) -> Pixels:
    side = whole.shape[0]
    width, height = (chance.uniform(_SHORTEST_SIDE, 1) * side for _ in range(2))
    left, top = chance.uniform(0, side - width), chance.uniform(0, side - height)
    box = (left, top, left + width, top + height)
    return np.asarray(Image.fromarray(whole).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC, box=box))
