"""Features: the same bytes on every machine, close to what they stand for, and almost the same for copies."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from captioning.features import (
    DIMENSIONS,
    PROBED_BITS,
    SIDE,
    THUMBNAIL_BYTES,
    Floats,
    pack_thumbnail,
    pack_vectors,
    probes,
    sketches,
    unit,
    unpack_thumbnails,
    unpack_vectors,
)

means = arrays(np.float32, (3, 2048), elements=st.floats(0, 20, width=32), fill=st.floats(0, 2, width=32))


def thumbnails_of(*images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Floats:
    packed = b"".join(map(pack_thumbnail, images))
    return unpack_thumbnails(np.frombuffer(packed, np.uint8).reshape(-1, THUMBNAIL_BYTES))


def encoded(path: Path, size: int = 224, **options: object) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a photograph as a model sees it after it was saved in another form."""
    stream = io.BytesIO()
    Image.open(path).convert("RGB").resize((size, size)).save(stream, **options)  # type: ignore[arg-type]
    return np.asarray(Image.open(stream).convert("RGB").resize((224, 224)))


def test_packed_features_stay_the_same_bytes() -> None:
    """Whoever changes them must increase VERSION: stored ones could not be compared with new ones."""
    steps = np.arange(2048, dtype=np.float32)[None] % 7
    rows, columns = np.mgrid[:224, :224]
    image = np.stack([rows, columns, rows * columns % 256], axis=2).astype(np.uint8)
    assert hashlib.sha256(pack_vectors(steps)[0]).hexdigest()[:16] == "fcd7d5092a311993"
    assert hashlib.sha256(pack_thumbnail(image)).hexdigest()[:16] == "5e47240f9592ae77"
    assert sketches(thumbnails_of(image)).tolist() == [12298733]


@given(means)
def test_a_vector_takes_one_byte_a_dimension_and_is_off_by_at_most_half_a_step(features: Floats) -> None:
    packed = pack_vectors(features)
    assert {len(row) for row in packed} == {DIMENSIONS}
    vectors = unpack_vectors(packed).astype(np.float64)
    doubled = unpack_vectors(pack_vectors(4 * features)).astype(np.float64)  # roots are doubled, directions are not
    assert np.abs(vectors - doubled).max() <= 1
    assert np.isin(np.abs(vectors).max(1), (0, 127)).all()


@given(means)
def test_cosines_of_packed_vectors_are_symmetric_and_those_of_a_vector_with_itself_are_1(features: Floats) -> None:
    vectors = unit(unpack_vectors(pack_vectors(features)))
    cosines = vectors @ vectors.T
    assert np.abs(cosines - cosines.T).max() < 1e-6
    for own, vector in zip(np.diag(cosines), vectors, strict=True):
        assert own == pytest.approx(1.0, abs=1e-5) or not vector.any()


def test_packed_cosines_are_close_to_those_of_the_whole_features() -> None:
    rng = np.random.default_rng(0)
    common = rng.gamma(0.5, 1, 2048)
    features = np.stack([(1 - share) * rng.gamma(0.5, 1, 2048) + share * common for share in np.linspace(0, 1, 50)])
    roots = np.sqrt(features)
    whole = unit((roots - roots.mean(1, keepdims=True)).astype(np.float32))
    packed = unit(unpack_vectors(pack_vectors(features.astype(np.float32))))
    assert np.abs(whole @ whole.T - packed @ packed.T).max() < 5 / np.sqrt(DIMENSIONS)  # five standard deviations


def test_the_thumbnail_of_a_photograph_survives_another_encoding_and_size(photographs: Path) -> None:
    paths = sorted(photographs.iterdir())
    originals = thumbnails_of(*(encoded(path, format="PNG") for path in paths))
    for options in ({"format": "JPEG", "quality": 30}, {"format": "WEBP", "quality": 40}):
        copies = thumbnails_of(*(encoded(path, 150, **options) for path in paths))
        correlations = originals @ copies.T
        assert np.diag(correlations).min() > 0.95
        assert (correlations - 2 * np.eye(len(paths))).max() < 0.6


def test_a_copy_has_one_of_the_probed_sketches(photographs: Path) -> None:
    paths = sorted(photographs.iterdir())
    asked = probes(thumbnails_of(*(encoded(path, format="PNG") for path in paths)))
    assert asked.shape == (len(paths), 2**PROBED_BITS)
    copies = sketches(thumbnails_of(*(encoded(path, 180, format="JPEG", quality=50) for path in paths)))
    assert all(sketch in row for sketch, row in zip(copies, asked, strict=True))


def test_the_own_sketch_is_the_first_probe() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    thumbnails = thumbnails_of(*pixels)
    assert probes(thumbnails)[:, 0].tolist() == sketches(thumbnails).tolist()


@pytest.mark.parametrize("size", [32, SIDE, 224, 1024])
def test_an_image_of_one_colour_is_like_no_other(size: int) -> None:
    thumbnails = thumbnails_of(np.full((size, size, 3), 200, np.uint8))
    assert not thumbnails.any()
    assert sketches(thumbnails).tolist() == [-1]
