"""Near-duplicates: pairs are found whatever changed, clusters are a partition, and different images stay apart."""

import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from captioning import near_duplicates
from captioning.features import DIMENSIONS, THUMBNAIL_BYTES, pack_thumbnail
from captioning.near_duplicates import Images, Kind, clusters, compare, find_pairs, nearest

CHANGES: dict[Kind, Callable[[Image.Image], Image.Image]] = {
    Kind.SAME: lambda image: image.resize((150, 120)),
    Kind.PART: lambda image: image.crop((30, 12, 290, 220)),
    Kind.MIRRORED: ImageOps.mirror,
}


def vectors(count: int, seed: int = 0) -> list[bytes]:
    rows = np.random.default_rng(seed).integers(-127, 128, (count, DIMENSIONS))
    return [row.astype(np.int8).tobytes() for row in rows]


def thumbnail(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=70)
    return pack_thumbnail(np.asarray(Image.open(stream).resize((224, 224))))


@pytest.fixture(scope="module")
def originals(photographs: Path) -> list[Image.Image]:
    """Photographs, except one of grass and one of stars: parts of such textures are not recognised."""
    paths = [path for path in sorted(photographs.iterdir()) if path.stem not in ("grass", "hubble_deep_field")]
    return [Image.open(path).convert("RGB").resize((320, 240)) for path in paths]


def changed(originals: list[Image.Image], change: Callable[[Image.Image], Image.Image]) -> Images:
    """Return photographs and changed copies of them, in which the encoder sees the same."""
    own = vectors(len(originals))
    return Images.unpack(own + own, [*map(thumbnail, originals), *(thumbnail(change(image)) for image in originals)])


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_copies_are_found_and_different_photographs_are_not(originals: list[Image.Image], kind: Kind) -> None:
    images, count = changed(originals, CHANGES[kind]), len(originals)
    pairs = find_pairs(images, strict=False)
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [
        (i, i + count) for i in range(count)
    ]
    assert [kinds for i in range(count) for kinds, _ in compare(images, i, [i + count])] == [kind] * count
    assert len(find_pairs(images, strict=True)) == (count if kind == Kind.SAME else 0)


def test_what_an_image_is_of_another_does_not_depend_on_the_order(originals: list[Image.Image]) -> None:
    images = changed(originals, CHANGES[Kind.PART])
    for i in range(len(images)):
        for j, (kind, score) in enumerate(compare(images, i, range(len(images)))):
            back, score_back = compare(images, j, [i])[0]
            assert (kind, round(score, 4)) == (back, round(score_back, 4))


def test_images_of_one_colour_are_no_near_duplicates() -> None:
    blank = pack_thumbnail(np.zeros((32, 32, 3), np.uint8))
    assert not len(find_pairs(Images.unpack(vectors(4), [blank] * 4), strict=True))


def test_no_images_have_no_pairs() -> None:
    assert not len(find_pairs(Images.unpack([], []), strict=False))


def test_pairs_of_many_images_are_found_in_groups_as_by_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bases = rng.standard_normal((300, DIMENSIONS))
    rows = np.concatenate([bases, bases + 0.4 * rng.standard_normal((300, DIMENSIONS))])
    packed = [np.clip(np.rint(row * 30), -127, 127).astype(np.int8).tobytes() for row in rows]
    thumbnails = [row.tobytes() for row in rng.integers(0, 256, (300, THUMBNAIL_BYTES), np.uint8)]
    images = Images.unpack(packed, thumbnails + thumbnails)
    every = find_pairs(images, strict=False)
    monkeypatch.setattr(near_duplicates, "EXACT_LIMIT", 10)
    grouped = find_pairs(images, strict=False)
    assert len(every) == 300
    assert (every.first.tolist(), every.second.tolist()) == (grouped.first.tolist(), grouped.second.tolist())


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_an_image_is_nearest_to_itself(count: int, seed: int) -> None:
    images = Images.unpack(vectors(count, seed), [bytes(THUMBNAIL_BYTES)] * count)
    halves = [(np.arange(count)[part], images.vectors[part]) for part in (slice(count // 2), slice(count // 2, None))]
    for i in range(count):
        found = nearest(images.vectors[i], iter(halves), 5)
        assert len(found) == min(5, count)
        assert found[0] == (i, pytest.approx(1.0, abs=1e-5))
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


pairs_of_images = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda pair: pair[0] != pair[1]))


@given(pairs_of_images)
def test_clusters_are_a_partition_of_the_paired_images(pairs: list[tuple[int, int]]) -> None:
    found = clusters(20, [a for a, _ in pairs], [b for _, b in pairs])
    members = [i for group in found for i in group]
    assert sorted(members) == sorted({i for pair in pairs for i in pair})
    assert all(len(group) > 1 for group in found)
    group_of = {i: number for number, group in enumerate(found) for i in group}
    assert all(group_of[a] == group_of[b] for a, b in pairs)


@given(pairs_of_images, st.randoms())
def test_clusters_do_not_depend_on_the_order_of_pairs(pairs: list[tuple[int, int]], random: Random) -> None:
    turned = [(b, a) for a, b in pairs]
    random.shuffle(turned)
    ordered, shuffled = (clusters(20, [a for a, _ in some], [b for _, b in some]) for some in (pairs, turned))
    assert ordered == shuffled
