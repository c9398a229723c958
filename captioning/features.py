"""What is kept of an image to compare it with others, in 498 bytes: what the encoder saw, and a thumbnail.

The vector finds images that show the same, also cropped ones. The thumbnail tells whether they are the same photograph.
Vectors of different encoders cannot be compared, thumbnails can.

* The vector is the mean feature vector of the encoder's grid. Its square root evens out channels (Arandjelovic &
  Zisserman 2012, "Three things everyone should know to improve object retrieval"), the mean over channels is
  subtracted, and 2048 channels are folded to 256 with random signs (Weinberger et al. 2009, "Feature hashing for large
  scale multitask learning"). The signs come from SHAKE-256, so they are the same on every machine. One byte a number.
* The thumbnail is the grey image in 22 x 22 pixels without its low frequencies, which different photographs share:
  each pixel less the mean of the 3 x 3 around it. Four bits a pixel.
* The sketch of a thumbnail is 24 bits, the signs of random projections of the blurred thumbnail. Copies differ in few
  bits, and those are bits of which the projection is near 0, so an index finds copies by asking for the 256 sketches
  with the 8 weakest bits flipped (Lv et al. 2007, "Multi-probe LSH").
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VERSION = 1  # of all of this; increased whenever the same image gives other bytes
DIMENSIONS = 256  # of a vector
SIDE = 22  # of a thumbnail, pixels
THUMBNAIL_BYTES = SIDE * SIDE // 2
SKETCH_BITS = 24
PROBED_BITS = 8  # of a sketch, that may differ in a near-duplicate
_LEAST_CONTRAST = 0.5  # levels of 255; a thumbnail with less is of one colour, and like no other
_ROWS = 16  # of a product: for more, BLAS starts threads, which cost twenty times what the product does
_STEPS = 2.5  # of a 4-bit pixel in a standard deviation

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # the luma of ITU-R BT.601

Floats = NDArray[np.float32]


def pack_vectors(means: Floats) -> list[bytes]:
    """Return the vectors of mean features (B, channels), which are not negative: DIMENSIONS bytes each."""
    roots = np.sqrt(np.maximum(means, 0.0, dtype=np.float32))
    order, signs = _folding(means.shape[1])
    folded = ((roots - roots.mean(1, keepdims=True)) * signs)[:, order].reshape(len(means), DIMENSIONS, -1).sum(2)
    largest = np.abs(folded).max(1, keepdims=True)
    whole = np.rint(folded * 127 / np.where(largest > 0, largest, 1)).astype(np.int8)
    return [row.tobytes() for row in whole]


def unpack_vectors(packed: Sequence[bytes]) -> NDArray[np.int8]:
    """Return vectors as numbers (N, DIMENSIONS); only their directions count."""
    return np.frombuffer(b"".join(packed), np.int8).reshape(-1, DIMENSIONS)


def unit(vectors: NDArray[np.int8] | Floats) -> Floats:
    """Return vectors (N, D) in length 1, so that products are cosines; one of zeros stays."""
    floats = vectors.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", floats, floats))
    units: Floats = floats / np.maximum(lengths, np.float32(1e-9))[:, None]
    return units


def pack_thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """Return the thumbnail of an image (S, S, 3), two pixels a byte."""
    size = len(pixels)
    shrink = _averages(size)
    rows: Floats = (shrink @ pixels.reshape(size, -1).astype(np.float32)).reshape(SIDE, size, 3)
    small: Floats = np.matmul(rows @ _GREY, shrink.T)
    rest = small - _blurred(small)
    contrast = float(np.sqrt((rest * rest).mean()))
    scale = _STEPS / contrast if contrast >= _LEAST_CONTRAST else 0.0
    nibbles = (np.clip(np.rint(rest * scale), -7, 7) + 8).astype(np.uint8).reshape(-1, 2)
    packed: NDArray[np.uint8] = nibbles[:, 0] << 4 | nibbles[:, 1]
    return packed.tobytes()


def unpack_thumbnails(packed: NDArray[np.uint8]) -> Floats:
    """Return thumbnails, packed (N, THUMBNAIL_BYTES), as (N, SIDE * SIDE) in length 1: products are correlations.

    One of an image of one colour is all zeros.
    """
    nibbles = np.stack([packed >> 4, packed & 15], axis=2).reshape(len(packed), SIDE * SIDE)
    return unit(nibbles.astype(np.float32) - 8)


def sketches(thumbnails: Floats) -> NDArray[np.int64]:
    """Return the sketches (N,) of unpacked thumbnails; -1 for an image of one colour, which has no near-duplicates."""
    return np.where(thumbnails.any(1), _bits(_projected(thumbnails) > 0), -1)


def probes(thumbnails: Floats) -> NDArray[np.int64]:
    """Return the sketches (N, 2 ** PROBED_BITS) that near-duplicates of thumbnails may have, their own first."""
    projected = _projected(thumbnails)
    weakest = np.argsort(np.abs(projected), axis=1)[:, :PROBED_BITS]
    flips = np.array(list(itertools.product((0, 1), repeat=PROBED_BITS)), np.int64)
    return _bits(projected > 0)[:, None] ^ ((np.int64(1) << weakest) @ flips.T)


def _projected(thumbnails: Floats) -> Floats:
    """Return projections (N, SKETCH_BITS) with random signs."""
    signs = _random_signs("sketch", SIDE * SIDE * SKETCH_BITS).reshape(SIDE * SIDE, SKETCH_BITS)
    blurred = _blurred(thumbnails.reshape(-1, SIDE, SIDE)).reshape(len(thumbnails), -1)
    parts = (blurred[start : start + _ROWS] @ signs for start in range(0, len(blurred), _ROWS))
    return np.concatenate([np.zeros((0, SKETCH_BITS), np.float32), *parts])


def _blurred(images: Floats) -> Floats:
    """Return images (..., SIDE, SIDE), each pixel the mean of the 3 x 3 around it; the edge is continued outside."""
    padded = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    blurred: Floats = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / np.float32(9)
    return blurred


def _bits(signs: NDArray[np.bool_]) -> NDArray[np.int64]:
    return signs.astype(np.int64) @ (np.int64(1) << np.arange(SKETCH_BITS, dtype=np.int64))


@functools.cache
def _folding(channels: int) -> tuple[NDArray[np.int64], Floats]:
    """Return in which order channels are folded, and with which signs."""
    numbers = np.frombuffer(_random_bytes("order", 8 * channels), "<u8")
    return np.argsort(numbers, kind="stable"), _random_signs("signs", channels)


@functools.cache
def _averages(size: int) -> Floats:
    """Return the matrix (SIDE, size) that averages `size` pixels to SIDE."""
    edges = np.arange(SIDE + 1) * size / SIDE
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: Floats = (np.maximum(covered, 0) * SIDE / size).astype(np.float32)
    return shares


@functools.cache
def _random_signs(purpose: str, count: int) -> Floats:
    return np.where(np.frombuffer(_random_bytes(purpose, count), np.uint8) & 1, 1, -1).astype(np.float32)


def _random_bytes(purpose: str, count: int) -> bytes:
    """Return bytes that are the same on every machine and in every version of NumPy."""
    return hashlib.shake_256(f"captionmill features {VERSION}: {purpose}".encode()).digest(count)
