"""Which images are near-duplicates, by their features: pairs, and clusters of pairs. NumPy only; no files, no SQL.

Copies that were encoded again or resized have almost the same thumbnail. Cropped, turned and edited copies have not:
they are sought by their vectors, and a pair counts when a part of one thumbnail is the other one.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioning.features import (
    SIDE,
    SKETCH_BITS,
    THUMBNAIL_BYTES,
    Floats,
    probes,
    sketches,
    unit,
    unpack_thumbnails,
    unpack_vectors,
)

SAME_LEAST = 0.93  # correlation of two thumbnails that are of one image
PART_LEAST = 0.46  # of a thumbnail with a part of another one that are of one image
CANDIDATE_LEAST = 0.65  # cosine of two vectors, from which their thumbnails are compared
EXACT_LIMIT = 200_000  # images; of more, not all pairs are compared, see `_groups`
_PART_SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # sides of a part, of the whole
_PART_STEP = 0.9  # pixels of a thumbnail between parts
_BLOCK = 4096  # images; a product of two blocks takes 64 MB
_PAIRS_AT_ONCE = 64  # compared in parts, which takes 20 MB
_GROUPS_OF_AN_IMAGE = 4  # in which it is compared
_DIFFERENT_SIGNS = 14  # of 61 pixels that two thumbnails of one image may have; others have about 30
_LARGEST_BUCKET = 2000  # images with the same sketch that are compared with one

Indices = NDArray[np.int64]


class Kind(StrEnum):
    """What one image is of another."""

    COPY = "copy"  # the same bytes
    SAME = "same"  # encoded again or resized
    PART = "part"  # cropped, framed or edited
    MIRRORED = "mirrored"
    LINKED = "linked"  # only through other images of its cluster


@dataclass(frozen=True)
class Images:
    """The features of some images: rows of the two arrays."""

    vectors: NDArray[np.int8]  # (N, DIMENSIONS)
    thumbnails: NDArray[np.uint8]  # packed, (N, THUMBNAIL_BYTES): unpacked they would take 2 KB an image

    @classmethod
    def unpack(cls, vectors: Sequence[bytes], thumbnails: Sequence[bytes]) -> "Images":
        """Return images from their packed features."""
        packed = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL_BYTES)
        return cls(unpack_vectors(vectors), packed)

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Pairs:
    """Near-duplicates: image `first[i]` and image `second[i]`, which comes later."""

    first: Indices
    second: Indices
    scores: Floats  # correlations of thumbnails, or of the best part of one with the other
    mirrored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)


_PAIR_FIELDS = tuple(Pairs.__dataclass_fields__)


def find_pairs(images: Images, *, strict: bool, on_progress: Callable[[int], object] = lambda done: None) -> Pairs:
    """Return the pairs of near-duplicates; with `strict`, only those that were encoded again or resized.

    `on_progress` is called with the number of images that have been compared with all others.
    """
    same = _same(images.thumbnails)
    if strict:
        return same
    found = [same]
    known = np.unique(same.first * len(images) + same.second)
    for first, second in _candidates(images.vectors, on_progress):
        new = ~np.isin(first * len(images) + second, known)
        found.append(_parts(images.thumbnails, first[new], second[new]))
    return _joined(found)


def compare(images: Images, first: int, others: Sequence[int]) -> list[tuple[Kind | None, float]]:
    """Return what other images are of one image, None for different ones, and the correlation of their thumbnails."""
    second = np.asarray(others, np.int64)
    first_of_each = np.full(len(second), first)
    scores = _correlations(images.thumbnails, first_of_each, second)
    kinds: list[Kind | None] = [Kind.SAME if score >= SAME_LEAST else None for score in scores]
    cosines = unit(images.vectors[second]) @ unit(images.vectors[first][None])[0]
    left = np.flatnonzero((scores < SAME_LEAST) & (cosines >= CANDIDATE_LEAST))
    straight, mirrored = _part_scores(images.thumbnails, first_of_each[left], second[left])
    for i, of_straight, of_mirrored in zip(left.tolist(), straight, mirrored, strict=True):
        scores[i] = max(of_straight, of_mirrored)
        if scores[i] >= PART_LEAST:
            kinds[i] = Kind.MIRRORED if of_mirrored > of_straight else Kind.PART
    return list(zip(kinds, np.clip(scores, 0, 1).tolist(), strict=True))


def same_image(thumbnail: Floats, others: Floats) -> int | None:
    """Return which of some unpacked thumbnails (N, ...) is of the same image as another one; None if none is."""
    if not len(others):
        return None
    correlations = others @ thumbnail
    best = int(correlations.argmax())
    return best if correlations[best] >= SAME_LEAST else None


def nearest(vector: NDArray[np.int8], blocks: Iterator[tuple[Indices, NDArray[np.int8]]], count: int) -> list[
    tuple[int, float]
]:  # fmt: skip
    """Return the `count` images with the most similar vectors: id and cosine, the most similar first.

    A block has the ids and the vectors of some images.
    """
    wanted = unit(vector[None])[0]
    ids, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for block_ids, vectors in blocks:
        ids, cosines = np.append(ids, block_ids), np.append(cosines, unit(vectors) @ wanted)
        best = np.lexsort((ids, -cosines))[:count]
        ids, cosines = ids[best], cosines[best]
    return list(zip(ids.tolist(), cosines.tolist(), strict=True))


def _same(thumbnails: NDArray[np.uint8]) -> Pairs:
    """Return the pairs with almost the same thumbnail, which are found by their sketches."""
    own = np.concatenate([np.zeros(0, np.int64), *(sketches(unpack_thumbnails(part)) for part in _blocks(thumbnails))])
    order = np.argsort(own, kind="stable").astype(np.int64)
    have = own[own >= 0]
    counts_of = np.bincount(have, minlength=1 << SKETCH_BITS)
    starts = len(own) - len(have) + np.append(0, np.cumsum(counts_of))  # of each sketch, in this order
    found, signs = [_no_pairs()], _signs(thumbnails)
    for number, part in enumerate(_blocks(thumbnails)):
        asked = probes(unpack_thumbnails(part))
        counts = np.minimum(starts[asked + 1] - starts[asked], _LARGEST_BUCKET)
        row, probe = np.nonzero(counts)
        number_of = counts[row, probe]
        first = np.repeat(row + number * _BLOCK, number_of)
        within = np.arange(len(first)) - np.repeat(np.cumsum(number_of) - number_of, number_of)
        second = order[np.repeat(starts[asked[row, probe]], number_of) + within]
        likely = np.bitwise_count(signs[first] ^ signs[second]) <= _DIFFERENT_SIGNS
        found.append(_alike(thumbnails, *_each_once(first[likely], second[likely])))
    return _joined(found)


def _signs(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the signs of every eighth pixel of packed thumbnails as bits (N,): cheap to compare."""
    bits = np.zeros((len(thumbnails), 64), np.uint8)
    sampled = thumbnails[:, ::4] >> 7
    bits[:, : sampled.shape[1]] = sampled
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _alike(thumbnails: NDArray[np.uint8], first: Indices, second: Indices) -> Pairs:
    """Return those pairs that have almost the same thumbnail."""
    scores = _correlations(thumbnails, first, second)
    near = scores >= SAME_LEAST
    return Pairs(first[near], second[near], scores[near], np.zeros(int(near.sum()), bool))


def _correlations(thumbnails: NDArray[np.uint8], first: Indices, second: Indices) -> Floats:
    scores = np.zeros(len(first), np.float32)
    for i in range(0, len(first), _BLOCK):
        a, b = (unpack_thumbnails(thumbnails[rows[i : i + _BLOCK]]) for rows in (first, second))
        scores[i : i + _BLOCK] = np.einsum("ij,ij->i", a, b)
    return scores


def _each_once(first: Indices, second: Indices) -> tuple[Indices, Indices]:
    """Return pairs in ascending order, the smaller index first, without repetitions and pairs of one with itself."""
    ordered = np.sort(np.stack([first, second], axis=1), axis=1)
    pairs = np.unique(ordered[ordered[:, 0] != ordered[:, 1]], axis=0)
    return pairs[:, 0], pairs[:, 1]


def _joined(parts: Sequence[Pairs]) -> Pairs:
    """Return all pairs, each once, with its first score."""
    all_pairs = Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in _PAIR_FIELDS))
    _, kept = np.unique(np.stack([all_pairs.first, all_pairs.second]), axis=1, return_index=True)
    return Pairs(*(getattr(all_pairs, name)[kept] for name in _PAIR_FIELDS))


def _blocks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _no_pairs() -> Pairs:
    return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, bool))


# -- candidates by vectors --


def _candidates(vectors: NDArray[np.int8], on_progress: Callable[[int], object]) -> Iterator[tuple[Indices, Indices]]:
    """Yield pairs with similar vectors, the smaller index first. A pair may come twice."""
    if len(vectors) <= EXACT_LIMIT:
        yield from _similar(vectors, np.arange(len(vectors)), on_progress)
        return
    members = _groups(vectors)
    for number, group in enumerate(members, start=1):
        yield from _similar(vectors, group)
        on_progress(len(vectors) * number // len(members))


def _similar(
    vectors: NDArray[np.int8], chosen: Indices, on_progress: Callable[[int], object] = lambda done: None
) -> Iterator[tuple[Indices, Indices]]:
    """Yield the pairs with similar vectors among some images, given in ascending order; each pair once."""
    for start in range(0, len(chosen), _BLOCK):
        rows = chosen[start : start + _BLOCK]
        block = unit(vectors[rows])
        for other in range(start, len(chosen), _BLOCK):
            columns = chosen[other : other + _BLOCK]
            cosines = block @ (block if other == start else unit(vectors[columns])).T
            first, second = np.nonzero(cosines >= CANDIDATE_LEAST)
            first, second = rows[first], columns[second]
            yield first[first < second], second[first < second]
        on_progress(start + len(rows))


def _groups(vectors: NDArray[np.int8]) -> list[Indices]:
    """Return groups of images that may be similar: each image is in the groups of the centres that are nearest to it.

    The centres are images, chosen at random: near-duplicates are near to the same ones.
    """
    count = len(vectors)
    chosen = np.random.Generator(np.random.PCG64(0)).choice(count, int(np.sqrt(count)), replace=False)
    centres = unit(vectors[chosen])
    nearest_centres = np.concatenate(
        [
            np.argpartition(-(unit(part) @ centres.T), _GROUPS_OF_AN_IMAGE)[:, :_GROUPS_OF_AN_IMAGE]
            for part in _blocks(vectors)
        ]
    )
    flat = nearest_centres.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.cumsum(np.bincount(flat, minlength=len(chosen)))[:-1]
    return [group // _GROUPS_OF_AN_IMAGE for group in np.split(order, bounds)]


# -- parts of thumbnails --


def _parts(thumbnails: NDArray[np.uint8], first: Indices, second: Indices) -> Pairs:
    """Return those pairs of which one thumbnail is a part of the other, perhaps mirrored."""
    straight, mirrored = _part_scores(thumbnails, first, second)
    scores = np.maximum(straight, mirrored)
    near = scores >= PART_LEAST
    return Pairs(first[near], second[near], scores[near], (mirrored > straight)[near])


def _part_scores(thumbnails: NDArray[np.uint8], first: Indices, second: Indices) -> tuple[Floats, Floats]:
    """Return how well one thumbnail of a pair fits a part of the other, as it is and mirrored: (P,) each."""
    straight, mirrored = np.zeros(len(first), np.float32), np.zeros(len(first), np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        a, b = (unpack_thumbnails(thumbnails[rows[part]]).reshape(-1, SIDE, SIDE) for rows in (first, second))
        straight[part] = np.maximum(_best_part(a, b), _best_part(b, a))
        mirrored[part] = np.maximum(_best_part(a, b[:, :, ::-1]), _best_part(b, a[:, :, ::-1]))
    return straight, mirrored


def _best_part(whole: Floats, wanted: Floats) -> Floats:
    """Return the highest correlation of thumbnails (P, SIDE, SIDE) with parts of others, scaled to full size: (P,)."""
    best = np.full(len(whole), -1.0, np.float32)
    target = wanted.reshape(len(wanted), -1)
    for cuts in _cuts():
        parts = np.matmul(np.matmul(cuts[None, :, None], whole[:, None, None]), cuts.transpose(0, 2, 1)[None, None])
        parts = parts.reshape(len(whole), -1, SIDE * SIDE)
        lengths = np.maximum(np.linalg.norm(parts, axis=2), 1e-6)
        correlations = np.matmul(parts, target[:, :, None])[:, :, 0] / lengths
        best = np.maximum(best, correlations.max(1))
    return best


@functools.cache
def _cuts() -> tuple[Floats, ...]:
    """Return, for each scale, matrices (positions, SIDE, SIDE) that stretch a part of a side to the whole side."""
    return tuple(np.stack([_cut(start, scale) for start in _starts(scale)]) for scale in _PART_SCALES)


def _starts(scale: float) -> NDArray[np.float64]:
    room = SIDE * (1 - scale)
    return np.linspace(0, room, 1 + int(np.ceil(room / _PART_STEP - 1e-9)))


def _cut(start: float, scale: float) -> Floats:
    centres = start + (np.arange(SIDE) + 0.5) * scale - 0.5
    weights = np.maximum(1 - np.abs(centres[:, None] - np.arange(SIDE)), 0)
    cut: Floats = (weights / np.maximum(weights.sum(1, keepdims=True), 1e-6)).astype(np.float32)
    return cut


# -- clusters --


def clusters(count: int, first: Sequence[int], second: Sequence[int]) -> list[list[int]]:
    """Return the sets of images 0 to `count` - 1 that pairs connect, each in ascending order, largest first."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in zip(first, second, strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for i in set(itertools.chain(first, second)):
        members.setdefault(root(i), []).append(i)
    return sorted((sorted(group) for group in members.values()), key=lambda group: (-len(group), group[0]))
