"""A hostile file costs little and gets a reason; a good image with damage around it gets its pixels."""

import io
import itertools
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from captioning.errors import ImageError
from captioning.model.containers import gif_frames, jpeg_scans, webp_first_frame, without_metadata
from captioning.model.formats import BASIC, installed
from captioning.model.pixels import Limits, Pixels, open_image
from captioning.values import Reason
from scripts.hostile_images import bases, gif, make_corpus, png, webp_canvas, webp_frames
from scripts.scenes import saved, scene

SIZE = 224
LIMITS = Limits()
BASES = bases()
MAY_BE_SLOW = [HealthCheck.too_slow]  # the machine may be busy


def pixels(data: bytes, limits: Limits = LIMITS, allowed: tuple[str, ...] = BASIC) -> Pixels:
    return open_image(data, SIZE, limits, allowed)[0]


def refusal(data: bytes, limits: Limits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(data, SIZE, limits)
    return caught.value


def pixels_or_error(data: bytes, limits: Limits, allowed: tuple[str, ...] = BASIC) -> Pixels | ImageError:
    """Decode an image. Any other exception fails the test."""
    try:
        return pixels(data, limits, allowed)
    except ImageError as error:
        return error


def test_every_good_image_of_the_hostile_corpus_is_decoded_and_every_other_gives_pixels_or_a_reason(
    tmp_path: Path,
) -> None:
    for name, kind in make_corpus(tmp_path / "corpus").items():
        path = tmp_path / "corpus" / name
        if kind.startswith("skipped") or "holes" in kind:
            continue
        found = pixels_or_error(path.read_bytes(), LIMITS, BASIC + installed())
        assert isinstance(found, ImageError) <= (not kind.startswith("good")), (name, found)


# -- limits --


@pytest.mark.parametrize(
    ("limits", "kind", "detail"),
    [
        (Limits(max_pixels=19_199), "PNG", "160x120 pixels; the limit is 19199 (CAPTIONING_MAX_PIXELS)"),
        (Limits(max_pixels=2_399), "JPEG", "160x120 pixels; the limit is 2399 (CAPTIONING_MAX_PIXELS)"),
        (Limits(max_side=159), "GIF", "160x120 pixels; the limit is 159 per side (CAPTIONING_MAX_SIDE)"),
        (Limits(max_frames=2), "animated GIF", "3 frames or more; the limit is 2 (CAPTIONING_MAX_FRAMES)"),
        (Limits(max_frames=2), "animated WebP", "3 frames or more; the limit is 2 (CAPTIONING_MAX_FRAMES)"),
        (Limits(max_frames=2), "animated PNG", "3 frames or more; the limit is 2 (CAPTIONING_MAX_FRAMES)"),
        (Limits(max_frames=1), "camera pair", "2 frames or more; the limit is 1 (CAPTIONING_MAX_FRAMES)"),
    ],
)
def test_the_detail_of_too_large_gives_the_size_the_limit_and_its_setting(
    limits: Limits, kind: str, detail: str
) -> None:
    error = refusal(BASES[kind][1], limits)
    assert (error.reason, error.detail) == (Reason.TOO_LARGE, detail)


@pytest.mark.parametrize("kind", sorted(BASES))
def test_an_image_just_within_the_limits_is_decoded(kind: str) -> None:
    width, height = (21, 13) if "interlaced" in kind else (160, 120)
    frames = 3 if "animated" in kind else 2 if "pair" in kind else 1
    open_image(BASES[kind][1], SIZE, Limits(width * height, max(width, height), frames))


def test_a_baseline_jpeg_may_have_eight_times_the_pixels() -> None:
    plain = saved(scene(size=(4000, 2000)), "JPEG")
    assert pixels(plain, Limits(max_pixels=1_000_000)).shape == (SIZE, SIZE, 3)
    assert "8 times" in refusal(plain, Limits(max_pixels=999_999)).detail


def test_a_progressive_jpeg_may_have_twice_the_pixels() -> None:
    progressive = saved(scene(size=(4000, 2000)), "JPEG", progressive=True)
    assert pixels(progressive, Limits(max_pixels=4_000_000)).shape == (SIZE, SIZE, 3)
    assert "2 times" in refusal(progressive, Limits(max_pixels=3_999_999)).detail


def test_a_jpeg_with_too_many_passes_is_refused() -> None:
    whole = BASES["progressive JPEG"][1]
    last = whole.rindex(b"\xff\xda")
    many = whole[:last] + whole[last:-2] * 91 + whole[-2:]  # 100 passes over 160 x 120
    assert pixels(many, Limits(max_pixels=60_000)).shape == (SIZE, SIZE, 3)
    detail = refusal(many, Limits(59_999)).detail
    assert "100 passes or more over 160x120 pixels; the limit is 1919968 in total" in detail
    trailing = BASES["JPEG"][1] + whole[last:-2] * 200  # passes after the end of the image are not counted
    assert (pixels(trailing, Limits(60_000)) == pixels(BASES["JPEG"][1])).all()


def test_passes_are_counted_up_to_the_end_of_the_image() -> None:
    assert jpeg_scans(BASES["JPEG"][1], 100) == 1
    assert jpeg_scans(BASES["progressive JPEG"][1], 100) == 10
    assert jpeg_scans(BASES["progressive JPEG"][1], 3) == 4
    assert jpeg_scans(BASES["camera pair"][1], 100) == 1


@settings(max_examples=60, suppress_health_check=MAY_BE_SLOW)
@given(frames=st.integers(0, 40), most=st.integers(1, 50))
def test_frames_are_counted_up_to_one_more_than_the_limit(frames: int, most: int) -> None:
    assert gif_frames(gif(frames), most) == min(frames, most + 1)
    assert webp_first_frame(webp_canvas(64, 64, webp_frames(frames)))[1] == max(frames, 1)


def test_the_number_of_gif_frames_agrees_with_pillow() -> None:
    with Image.open(io.BytesIO(BASES["animated GIF"][1])) as image:
        assert gif_frames(BASES["animated GIF"][1], 100) == getattr(image, "n_frames", 0) == 3


# -- good images with damage around them --


@pytest.mark.parametrize("kind", ["animated GIF", "animated WebP", "animated PNG", "camera pair"])
def test_damage_in_later_frames_does_not_change_the_first(kind: str) -> None:
    whole = BASES[kind][1]
    first = pixels(whole)
    for share in (0.6, 0.8, 0.99):
        assert (pixels(whole[: int(len(whole) * share)]) == first).all()
    damaged = whole[: len(whole) * 2 // 3] + random.Random(0).randbytes(len(whole) // 3)
    assert (pixels(damaged) == first).all()


@settings(max_examples=100, suppress_health_check=MAY_BE_SLOW)
@given(junk=st.binary(max_size=60))
def test_bytes_after_an_image_do_not_change_it(junk: bytes) -> None:
    for kind in ("JPEG", "PNG", "GIF", "WebP"):
        assert (pixels(BASES[kind][1] + junk) == pixels(BASES[kind][1])).all()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


BOMB = zlib.compress(bytes(64_000_000), 9)


@pytest.mark.parametrize(
    "metadata",
    [
        png_chunk(b"tEXt", b"workflow\0" + b"{}" * 1_000_000),
        png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 1_000_000)),
        png_chunk(b"zTXt", b"a\0\0" + BOMB),
        png_chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB),
        png_chunk(b"iCCP", b"a\0\0" + BOMB),
        png_chunk(b"iCCP", b"a\0\x07garbage"),
        png_chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0",
        png_chunk(b"tEXt", b"a\0b") * 5000,
    ],
    ids=["long text", "compressed", "text bomb", "iTXt bomb", "profile bomb", "bad profile", "bad checksum", "many"],
)
def test_no_text_or_profile_of_a_png_prevents_decoding(metadata: bytes) -> None:
    whole = BASES["PNG"][1]
    assert (pixels(whole[:33] + metadata + whole[33:]) == pixels(whole)).all()


@pytest.mark.parametrize("segment", [b"\xff\xe2\0\x0eICC_PROFILE\0", b"\xff\xed\0\x10Photoshop 3.0\0", b"\xff\xfe\0\2"])
def test_no_profile_or_comment_of_a_jpeg_prevents_decoding(segment: bytes) -> None:
    whole = BASES["JPEG"][1]
    assert (pixels(whole[:2] + segment + whole[2:]) == pixels(whole)).all()


@pytest.mark.parametrize("kind", sorted(BASES))
def test_an_image_without_its_metadata_has_the_same_pixels(kind: str) -> None:
    whole = BASES[kind][1]
    assert (pixels(without_metadata(whole)) == pixels(whole)).all()


def test_a_png_with_too_much_text_keeps_its_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved(scene(), "PNG", exif=exif)
    with_text = whole[:33] + png_chunk(b"zTXt", b"a\0\0" + BOMB) + whole[33:]
    assert (pixels(with_text) == pixels(whole)).all()


# -- fuzzing --


def assert_pixels_or_a_reason(data: bytes) -> None:
    found = pixels_or_error(data, Limits(max_pixels=1_000_000))
    if isinstance(found, ImageError):
        assert found.reason in (Reason.UNREADABLE, Reason.TRUNCATED, Reason.UNSUPPORTED, Reason.TOO_LARGE)
        assert found.detail
    else:
        assert (found.shape, found.dtype) == ((SIZE, SIZE, 3), np.uint8)


NUMBERS = st.sampled_from((0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1))
FILES = st.sampled_from([data for _, data in BASES.values()])


@st.composite
def extreme_numbers(draw: st.DrawFn) -> bytes:
    """Return a file in which a few numbers of the structure are replaced by extreme ones."""
    data = bytearray(draw(FILES))
    for _ in range(draw(st.integers(1, 4))):
        form = draw(st.sampled_from(("<B", "<H", ">H", "<I", ">I")))
        value = draw(NUMBERS) % (1 << 8 * struct.calcsize(form))
        struct.pack_into(form, data, draw(st.integers(0, min(300, len(data) - 4))), value)
    return bytes(data)


def parts(data: bytes) -> list[bytes]:
    """Cut a file at its PNG chunks, JPEG markers or RIFF chunks; other files every 40 bytes."""
    cuts = {0, len(data)}
    if data[:4] in (b"\x89PNG", b"RIFF"):
        order, name = ("big", 4) if data[:1] == b"\x89" else ("little", 0)
        at = 8 if order == "big" else 12
        while at + 8 <= len(data):
            cuts.add(at)
            at += 8 + name + int.from_bytes(data[at + 4 - name : at + 8 - name], order)  # type: ignore[arg-type]
    elif data[:2] == b"\xff\xd8":
        cuts |= {i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)}
    else:
        cuts |= set(range(0, len(data), 40))
    inside = sorted(cut for cut in cuts if cut <= len(data))
    return [data[a:b] for a, b in itertools.pairwise(inside)]


@st.composite
def rearranged(draw: st.DrawFn) -> bytes:
    """Return a file with parts that are dropped, repeated, swapped, emptied, or taken from another file."""
    own, others = parts(draw(FILES)), parts(draw(FILES))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(own) - 1))
        change = draw(st.sampled_from(("drop", "repeat", "swap", "foreign", "empty")))
        if change == "drop" and len(own) > 1:
            del own[at]
        elif change == "repeat":
            own[at:at] = [own[at]] * draw(st.integers(1, 20))
        elif change == "swap":
            other = draw(st.integers(0, len(own) - 1))
            own[at], own[other] = own[other], own[at]
        elif change == "foreign":
            own[at] = others[draw(st.integers(0, len(others) - 1))]
        else:
            own[at] = own[at][: draw(st.integers(0, 12))]
    return b"".join(own)


@st.composite
def spliced(draw: st.DrawFn) -> bytes:
    """Return the beginning of one file and the end of another."""
    one, other = draw(FILES), draw(FILES)
    return one[: draw(st.integers(0, len(one)))] + other[draw(st.integers(0, len(other))) :]


@st.composite
def png_with_random_header(draw: st.DrawFn) -> bytes:
    """Return a PNG with valid checksums and a random header and data."""
    extreme = st.one_of(st.integers(0, 40), NUMBERS)
    width, height = draw(extreme) % 2**32, draw(extreme) % 2**32
    depth, colour = draw(st.sampled_from((0, 1, 2, 4, 8, 16))), draw(st.integers(0, 7))
    return png(width, height, depth, colour, draw(st.binary(max_size=300)), interlace=draw(st.integers(0, 1)))


@settings(max_examples=1000, suppress_health_check=MAY_BE_SLOW)
@given(data=st.one_of(extreme_numbers(), rearranged(), spliced(), png_with_random_header()))
def test_a_modified_file_gives_pixels_or_a_reason_and_nothing_else(data: bytes) -> None:
    assert_pixels_or_a_reason(data)


@settings(max_examples=1000, suppress_health_check=MAY_BE_SLOW)
@given(head=st.sampled_from((b"", *(data[:n] for _, data in BASES.values() for n in (4, 16, 40)))), junk=st.binary())
def test_random_bytes_after_the_head_of_an_image_give_pixels_or_a_reason(head: bytes, junk: bytes) -> None:
    assert_pixels_or_a_reason(head + junk)
