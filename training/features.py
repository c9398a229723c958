"""What the encoder sees of every picture, computed once and kept on disk as float16.

Two depths: `grid`, what a decoder reads, and `stage4`, from which stage 5 of the encoder can learn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioning.model.encoder import PixelsToGrid, fold_batch_norm
from captioning.model.pixels import VERSION, open_picture
from captioning.values import digest_of

Depth = Literal["stage4", "grid"]
BATCH = 32


@dataclass(frozen=True)
class Features:
    """Maps of pictures by name: (views, H, W, C) for stage4, (views, N, C) for grid; view 1 is mirrored."""

    values: NDArray[np.float16]
    rows: dict[str, int]  # name -> its row; the mirrored view, if any, is `mirrored` rows further
    mirrored: int  # 0 when there are no mirrored views

    def get(self, names: Sequence[str], mirror: Sequence[bool]) -> Tensor:
        """Return the maps of pictures in bfloat16, mirrored where asked."""
        rows = [self.rows[n] + (self.mirrored if m else 0) for n, m in zip(names, mirror, strict=True)]
        return torch.from_numpy(self.values[rows]).to(torch.bfloat16)


def cached_features(
    network: PixelsToGrid,
    identity: str,
    folder: Path,
    names: Sequence[str],
    depth: Depth,
    cache: Path,
    *,
    mirror: bool,
    tick: Callable[[int, int], None] = lambda done, of: None,
) -> Features:
    """Return the features of `names` in `folder`, from the cache when the same were computed before.

    `identity` is the digest of the encoder's weights: the cache key, with the names, the depth and the
    preprocessing. `tick(done, of)` is called as views are finished.
    """
    key = digest_of([identity, list(names), depth, VERSION, mirror])[:20]
    path = cache / f"{depth}-{key}.npy"
    views = len(names) * (2 if mirror else 1)
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _compute(network, [folder / name for name in names], depth, path, views, tick)
    values = np.load(path, mmap_mode="r")
    return Features(values, {name: i for i, name in enumerate(names)}, len(names) if mirror else 0)


def _compute(
    network: PixelsToGrid, paths: list[Path], depth: Depth, out: Path, views: int, tick: Callable[[int, int], None]
) -> None:
    fold_batch_norm(network.encoder)
    network = network.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    unfinished = out.with_suffix(".part")
    table: np.memmap[tuple[int, ...], np.dtype[np.float16]] | None = None
    with torch.inference_mode():
        for at, pixels in _batches(paths, mirrored=views > len(paths)):
            found = _look(network, pixels, depth).to(torch.float16).numpy()
            if table is None:
                table = np.lib.format.open_memmap(
                    unfinished, mode="w+", dtype=np.float16, shape=(views, *found.shape[1:])
                )
            table[at : at + len(found)] = found
            tick(at + len(found), views)
    if table is not None:
        table.flush()
    unfinished.replace(out)


def _look(network: PixelsToGrid, pixels: Tensor, depth: Depth) -> Tensor:
    if depth == "grid":
        return network(pixels)  # type: ignore[no-any-return]
    x = pixels.permute(0, 3, 1, 2).to(torch.bfloat16)
    return network.encoder.stage4(x * network.scale + network.shift).permute(0, 2, 3, 1)


def _batches(paths: list[Path], *, mirrored: bool) -> Iterator[tuple[int, Tensor]]:
    for flip in (False, True) if mirrored else (False,):
        for start in range(0, len(paths), BATCH):
            squares = [open_picture(path.read_bytes(), 224)[0] for path in paths[start : start + BATCH]]
            pixels = torch.from_numpy(np.stack(squares))
            yield start + (len(paths) if flip else 0), pixels.flip(2) if flip else pixels
