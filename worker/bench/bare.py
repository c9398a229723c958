"""The model alone, on images in memory: what a worker could reach if nothing else cost any time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import mean, median

import numpy as np
import torch

from captioning.decoding.pool import DecodedImage, DecodePool, DecodeRequest
from captioning.errors import ImageError, UsageError
from captioning.model.captioner import Captioner
from captioning.store.claims import ClaimedItem
from captioning.store.files import FoundFile
from captioning.terminal import count, printable
from captioning.values import DecodeOptions
from worker.reader import read_file

IN_MEMORY = 256  # images
DECODE_SECONDS = 2.0


@dataclass(frozen=True)
class Bare:
    """What the model takes for an image, in seconds."""

    encode: float
    search: float

    @property
    def images_per_second(self) -> float:
        return 1 / (self.encode + self.search)


def decode_some(pool: DecodePool, root: bytes, found: Sequence[FoundFile], max_bytes: int) -> list[DecodedImage]:
    """Decode some of the files below a root, for some seconds. Raises UsageError when none of them is an image."""
    some = found[:: -(-len(found) // IN_MEMORY)]
    decoded: list[DecodedImage] = []
    errors: list[ImageError] = []
    ends = time.monotonic() + DECODE_SECONDS
    for _, result in pool.decode_all(_requests(root, some, max_bytes, errors), id):
        (errors if isinstance(result, ImageError) else decoded).append(result)  # type: ignore[arg-type]
        if decoded and time.monotonic() > ends:
            break
    if not decoded:
        reason = printable(str(errors[0].detail))
        raise UsageError(f"none of {count(len(some), 'file')} is an image that can be decoded: {reason}.")
    return decoded


def _requests(
    root: bytes, found: Sequence[FoundFile], max_bytes: int, errors: list[ImageError]
) -> Iterator[DecodeRequest[None]]:
    for file in found:
        item = ClaimedItem(0, 0, file.path, file.size, file.mtime_ns, 0, was_missed=False)
        try:
            yield DecodeRequest(read_file(root, item, max_bytes).data, None)
        except ImageError as error:
            errors.append(error)


def measure_bare(
    captioner: Captioner, images: Sequence[DecodedImage], size: int, options: DecodeOptions, seconds: float
) -> Bare:
    """Caption batches of `size` images for some seconds, none of which counts before the second one."""
    pixels = cycle(image.pixels for image in images)
    encodes: list[float] = []
    wholes: list[float] = []
    ends = time.monotonic() + seconds
    while len(wholes) < 2 or time.monotonic() < ends:
        batch = list(islice(pixels, size))
        began = time.perf_counter()
        with torch.inference_mode():
            features = captioner.encode(torch.from_numpy(np.stack(batch)))
        if features.is_cuda:
            torch.cuda.synchronize()
        encoded = time.perf_counter()
        captioner.caption(batch, options)
        encodes.append((encoded - began) / size)
        wholes.append((time.perf_counter() - encoded) / size)
    encode, whole = median(encodes[1:]), median(wholes[1:])
    return Bare(min(encode, whole), max(0.0, whole - encode))


def mean_of(measured: Sequence[Bare]) -> Bare:
    """Return the mean of several measurements."""
    return Bare(mean(each.encode for each in measured), mean(each.search for each in measured))
