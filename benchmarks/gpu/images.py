"""JPEGs of 224 x 224 pixels and about 20 KB that are made from a seed, so that nothing has to be carried along."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
_DETAILS = (3, 8, 30, 90)  # pixels along a side, of the layers of an image


def pixels(seed: int) -> NDArray[np.uint8]:
    """Return an image (SIDE, SIDE, 3) with details of all sizes, and noise."""
    rng = np.random.default_rng(seed)
    total = rng.normal(0, 9, (SIDE, SIDE, 1)).astype(np.float32) + np.zeros(3, np.float32)
    for detail in _DETAILS:
        layer = Image.fromarray(rng.integers(0, 256, (detail, detail, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        total += np.asarray(layer, np.float32) / len(_DETAILS)
    return total.clip(0, 255).astype(np.uint8)


def jpeg(seed: int) -> bytes:
    """Return the file of an image."""
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "JPEG", quality=84)
    return stream.getvalue()


def write_images(folder: Path, numbers: range, processes: int) -> float:
    """Write images with these seeds, 1000 to a folder; return their mean size in bytes."""
    parts = [numbers[start : start + 1000] for start in range(0, len(numbers), 1000)]
    with ProcessPoolExecutor(processes) as pool:
        return sum(pool.map(_write, [folder] * len(parts), parts)) / len(numbers)


def _write(folder: Path, numbers: Sequence[int]) -> int:
    own = folder / f"{numbers[0] // 1000:04}"
    own.mkdir(parents=True)
    return sum((own / f"{number:06}.jpg").write_bytes(jpeg(number)) for number in numbers)


def photographs(folder: Path | None, count: int) -> list[NDArray[np.uint8]]:
    """Return the pixels of some of a folder's images, as the model sees them; without a folder, of made ones."""
    if folder is None:
        return [pixels(seed) for seed in range(count)]
    from captioning.model.pixels import Limits, open_image

    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [open_image(file.read_bytes(), SIDE, Limits())[0] for file in files[:: max(1, len(files) // count)][:count]]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
