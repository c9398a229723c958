"""Which formats a decode process decodes: all if it is confined, otherwise the basic ones, unless a person decides."""

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioning.decoding import report
from captioning.decoding.capability import capability_of
from captioning.decoding.confinement import Confinement, available
from captioning.decoding.messages import Options, Started
from captioning.decoding.pool import DecodedImage, DecodePool, DecodeRequest
from captioning.errors import ImageError
from captioning.model import formats
from captioning.model.pixels import Limits
from captioning.settings import read_settings
from captioning.values import PERMANENT_REASONS, Reason
from scripts.format_images import extra_bases

UNCONFINED = "tests.decoding.unconfined_child"
EXTRA = extra_bases()
needs_confinement = pytest.mark.skipif(not available().is_complete, reason="this kernel cannot confine processes")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture(params=[False, True], ids=["not allowed", "allowed"])
def unconfined(request: pytest.FixtureRequest) -> Iterator[tuple[DecodePool, bool]]:
    with closing(DecodePool(1, 224, Limits(), 60.0, UNCONFINED, Options(allow_unconfined=request.param))) as pool:
        yield pool, request.param


def decode(pool: DecodePool, data: bytes) -> str:
    """Return the format of an image that the pool decodes. Raises ImageError."""
    return pool.decode(data).info.format


@needs_confinement
def test_a_confined_process_decodes_every_format() -> None:
    with closing(DecodePool(1, 224, Limits(), 60.0)) as pool:
        assert pool.started().formats == formats.ALL
        assert {decode(pool, data) for _, data in EXTRA.values()} == set(formats.EXTRA)


def test_a_process_that_is_not_confined_decodes_the_basic_formats_unless_allowed(
    unconfined: tuple[DecodePool, bool],
) -> None:
    pool, allowed = unconfined
    assert pool.started() == Started(Confinement(), formats.ALL if allowed else formats.BASIC)
    for _, data in EXTRA.values():
        if allowed:
            assert decode(pool, data) in formats.EXTRA
            continue
        with pytest.raises(ImageError, match="CAPTIONING_ALLOW_UNCONFINED_FORMATS=true") as caught:
            decode(pool, data)
        assert caught.value.reason is Reason.UNSUPPORTED


@needs_confinement
def test_doctor_says_what_is_decoded(tmp_path: Path) -> None:
    assert report.describe(report.start_one(read_settings(data_dir=tmp_path))) == (
        f"{available()}; decodes AVIF, BMP, GIF, HEIF, JPEG, JPEG2000, JXL, PNG, PSD, RAW, TIFF, WEBP"
    )


def test_doctor_says_why_formats_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    off = report.describe(Started(Confinement(), formats.BASIC))
    assert off == (
        "not confined; decodes BMP, GIF, JPEG, PNG, WEBP; AVIF, HEIF, JPEG2000, JXL, PSD, RAW, TIFF need a confined"
        " decode process, or CAPTIONING_ALLOW_UNCONFINED_FORMATS=true (docs/security.md)"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = report.describe(Started(available(), formats.BASIC + formats.installed()))
    assert missing.endswith("HEIF, JXL, RAW need pip install 'captionmill[formats]'")


@needs_confinement
def test_a_file_that_failed_before_its_format_was_installed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = capability_of(read_settings(data_dir=tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    before = capability_of(read_settings(data_dir=tmp_path))
    assert now.exceeds(before, Reason.UNSUPPORTED)
    assert not before.exceeds(now, Reason.UNSUPPORTED)
    assert before.exceeds(replace(before, formats=tuple(sorted(formats.BASIC))), Reason.UNSUPPORTED)


@st.composite
def modified(draw: st.DrawFn) -> bytes:
    """Return a file in an extra format with a few extreme numbers, or without its end."""
    data = bytearray(draw(st.sampled_from([data for _, data in EXTRA.values()])))
    for _ in range(draw(st.integers(1, 4))):
        form = draw(st.sampled_from(("<B", "<H", ">H", "<I", ">I")))
        value = draw(st.sampled_from((0, 1, 255, 32768, 65535, 2**31 - 1, 2**32 - 1))) % (
            1 << 8 * struct.calcsize(form)
        )
        struct.pack_into(form, data, draw(st.integers(0, min(800, len(data) - 4))), value)
    return bytes(data[: draw(st.integers(16, len(data))) if draw(st.booleans()) else len(data)])


@pytest.fixture(scope="module")
def small_pool() -> Iterator[DecodePool]:
    with closing(DecodePool(1, 224, Limits(max_pixels=4_000_000), 60.0)) as pool:
        yield pool


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(data=modified())
def test_a_modified_file_gives_pixels_or_a_reason_and_kills_no_process(small_pool: DecodePool, data: bytes) -> None:
    deaths: list[object] = []
    ((_, result),) = small_pool.decode_all([DecodeRequest(data, None)], deaths.append)
    assert isinstance(result, DecodedImage) or result.reason in PERMANENT_REASONS
    assert deaths == []
