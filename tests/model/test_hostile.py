"""A file that means harm costs little and gets a reason; a good image among damage gets its pixels."""

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
from captioning.model.pixels import Limits, Pixels, open_image
from captioning.values import Reason
from scripts.hostile_images import bases, gif, make_corpus, png, saved, scene, webp_canvas, webp_frames

SIZE = 224
LIMITS = Limits()
BASES = bases()
PATIENT = [HealthCheck.too_slow]  # a busy machine is no failure


def pixels(data: bytes, limits: Limits = LIMITS) -> Pixels:
    return open_image(data, SIZE, limits)[0]


def refusal(data: bytes, limits: Limits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(data, SIZE, limits)
    return caught.value


def opened(data: bytes, limits: Limits) -> Pixels | ImageError:
    """Open something; whatever else is raised fails the test."""
    try:
        return pixels(data, limits)
    except ImageError as wrong:
        return wrong


def test_of_the_corpus_the_good_images_open_and_the_others_have_a_reason_if_not(tmp_path: Path) -> None:
    for name, kind in make_corpus(tmp_path / "corpus").items():
        path = tmp_path / "corpus" / name
        if kind.startswith("skipped") or "holes" in kind:
            continue
        found = opened(path.read_bytes(), LIMITS)
        assert isinstance(found, ImageError) <= (not kind.startswith("good")), (name, found)


# -- limits --


@pytest.mark.parametrize(
    ("limits", "kind", "says"),
    [
        (Limits(max_pixels=19_199), "PNG", "160x120 pixels; the limit is 19199 (CAPTIONING_MAX_PIXELS)"),
        (Limits(max_pixels=2_399), "JPEG", "160x120 pixels; the limit is 2399 (CAPTIONING_MAX_PIXELS)"),
        (Limits(max_side=159), "GIF", "160x120 pixels; the limit is 159 a side (CAPTIONING_MAX_SIDE)"),
        (Limits(max_frames=2), "animated GIF", "3 frames or more; the limit is 2 (CAPTIONING_MAX_FRAMES)"),
        (Limits(max_frames=2), "animated WebP", "3 frames or more; the limit is 2 (CAPTIONING_MAX_FRAMES)"),
        (Limits(max_frames=2), "animated PNG", "3 frames or more; the limit is 2 (CAPTIONING_MAX_FRAMES)"),
        (Limits(max_frames=1), "camera pair", "2 frames or more; the limit is 1 (CAPTIONING_MAX_FRAMES)"),
    ],
)
def test_what_is_too_large_says_how_large_what_the_limit_is_and_where_to_set_it(
    limits: Limits, kind: str, says: str
) -> None:
    wrong = refusal(BASES[kind][1], limits)
    assert (wrong.reason, wrong.detail) == (Reason.TOO_LARGE, says)


@pytest.mark.parametrize("kind", sorted(BASES))
def test_what_is_just_within_the_limits_opens(kind: str) -> None:
    width, height = (21, 13) if "interlaced" in kind else (160, 120)
    frames = 3 if "animated" in kind else 2 if "pair" in kind else 1
    open_image(BASES[kind][1], SIZE, Limits(width * height, max(width, height), frames))


def test_a_jpeg_may_be_eight_times_as_large_because_it_is_read_at_an_eighth() -> None:
    plain = saved(scene(size=(4000, 2000)), "JPEG")
    assert pixels(plain, Limits(max_pixels=1_000_000)).shape == (SIZE, SIZE, 3)
    assert "8 times" in refusal(plain, Limits(max_pixels=999_999)).detail


def test_a_progressive_jpeg_is_held_whole_and_may_be_twice_as_large() -> None:
    progressive = saved(scene(size=(4000, 2000)), "JPEG", progressive=True)
    assert pixels(progressive, Limits(max_pixels=4_000_000)).shape == (SIZE, SIZE, 3)
    assert "2 times" in refusal(progressive, Limits(max_pixels=3_999_999)).detail


def test_a_jpeg_of_endless_passes_is_refused_by_what_they_cost() -> None:
    whole = BASES["progressive JPEG"][1]
    last = whole.rindex(b"\xff\xda")
    many = whole[:last] + whole[last:-2] * 91 + whole[-2:]  # 100 passes over 160 x 120
    assert pixels(many, Limits(max_pixels=60_000)).shape == (SIZE, SIZE, 3)
    assert "100 passes or more over 160x120 pixels; the limit is 1919968 in all" in refusal(many, Limits(59_999)).detail
    behind = BASES["JPEG"][1] + whole[last:-2] * 200  # a film, say: no part of the image
    assert (pixels(behind, Limits(60_000)) == pixels(BASES["JPEG"][1])).all()


def test_passes_are_counted_up_to_the_end_of_the_image() -> None:
    assert jpeg_scans(BASES["JPEG"][1], 100) == 1
    assert jpeg_scans(BASES["progressive JPEG"][1], 100) == 10
    assert jpeg_scans(BASES["progressive JPEG"][1], 3) == 4
    assert jpeg_scans(BASES["camera pair"][1], 100) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=PATIENT)
@given(frames=st.integers(0, 40), most=st.integers(1, 50))
def test_frames_are_counted_as_far_as_it_matters(frames: int, most: int) -> None:
    assert gif_frames(gif(frames), most) == min(frames, most + 1)
    assert webp_first_frame(webp_canvas(64, 64, webp_frames(frames)))[1] == max(frames, 1)


def test_frames_are_counted_as_pillow_counts_them() -> None:
    with Image.open(io.BytesIO(BASES["animated GIF"][1])) as image:
        assert gif_frames(BASES["animated GIF"][1], 100) == getattr(image, "n_frames", 0) == 3


# -- good images among damage --


@pytest.mark.parametrize("kind", ["animated GIF", "animated WebP", "animated PNG", "camera pair"])
def test_damage_in_later_frames_neither_loses_nor_changes_the_first(kind: str) -> None:
    whole = BASES[kind][1]
    first = pixels(whole)
    for share in (0.6, 0.8, 0.99):
        assert (pixels(whole[: int(len(whole) * share)]) == first).all()
    spoilt = whole[: len(whole) * 2 // 3] + random.Random(0).randbytes(len(whole) // 3)
    assert (pixels(spoilt) == first).all()


@settings(max_examples=100, deadline=None, suppress_health_check=PATIENT)
@given(junk=st.binary(max_size=60))
def test_whatever_follows_a_image_does_not_matter(junk: bytes) -> None:
    for kind in ("JPEG", "PNG", "GIF", "WebP"):
        assert (pixels(BASES[kind][1] + junk) == pixels(BASES[kind][1])).all()


def part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


BOMB = zlib.compress(bytes(64_000_000), 9)


@pytest.mark.parametrize(
    "metadata",
    [
        part(b"tEXt", b"workflow\0" + b"{}" * 1_000_000),
        part(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 1_000_000)),
        part(b"zTXt", b"a\0\0" + BOMB),
        part(b"iTXt", b"a\0\1\0\0\0" + BOMB),
        part(b"iCCP", b"a\0\0" + BOMB),
        part(b"iCCP", b"a\0\x07garbage"),
        part(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0",
        part(b"tEXt", b"a\0b") * 5000,
    ],
    ids=["recipe", "packed recipe", "text", "translation", "profile", "odd profile", "wrong sum", "many"],
)
def test_no_text_or_profile_of_a_png_loses_its_image(metadata: bytes) -> None:
    whole = BASES["PNG"][1]
    assert (pixels(whole[:33] + metadata + whole[33:]) == pixels(whole)).all()


@pytest.mark.parametrize("segment", [b"\xff\xe2\0\x0eICC_PROFILE\0", b"\xff\xed\0\x10Photoshop 3.0\0", b"\xff\xfe\0\2"])
def test_no_profile_or_comment_of_a_jpeg_loses_its_image(segment: bytes) -> None:
    whole = BASES["JPEG"][1]
    assert (pixels(whole[:2] + segment + whole[2:]) == pixels(whole)).all()


@pytest.mark.parametrize("kind", sorted(BASES))
def test_a_image_without_its_metadata_is_the_same(kind: str) -> None:
    whole = BASES[kind][1]
    assert (pixels(without_metadata(whole)) == pixels(whole)).all()


def test_a_png_with_too_much_text_still_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved(scene(), "PNG", exif=exif)
    spoilt = whole[:33] + part(b"zTXt", b"a\0\0" + BOMB) + whole[33:]
    assert (pixels(spoilt) == pixels(whole)).all()


# -- anything at all --


def assert_pixels_or_a_reason(data: bytes) -> None:
    found = opened(data, Limits(max_pixels=1_000_000))
    if isinstance(found, ImageError):
        assert found.reason in (Reason.UNREADABLE, Reason.TRUNCATED, Reason.UNSUPPORTED, Reason.TOO_LARGE)
        assert found.detail
    else:
        assert (found.shape, found.dtype) == ((SIZE, SIZE, 3), np.uint8)


NUMBERS = st.sampled_from((0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1))
FILES = st.sampled_from([data for _, data in BASES.values()])


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A file with a few of the numbers in its structure replaced by extreme ones."""
    spoilt = bytearray(draw(FILES))
    for _ in range(draw(st.integers(1, 4))):
        form = draw(st.sampled_from(("<B", "<H", ">H", "<I", ">I")))
        value = draw(NUMBERS) % (1 << 8 * struct.calcsize(form))
        struct.pack_into(form, spoilt, draw(st.integers(0, min(300, len(spoilt) - 4))), value)
    return bytes(spoilt)


def parts(data: bytes) -> list[bytes]:
    """Cut a file where its structure says: PNG's chunks, JPEG's markers, RIFF's parts, else every 40 bytes."""
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
    places = sorted(cut for cut in cuts if cut <= len(data))
    return [data[a:b] for a, b in itertools.pairwise(places)]


@st.composite
def rearranged(draw: st.DrawFn) -> bytes:
    """A file whose parts are dropped, doubled, swapped, or come from another file."""
    mine, others = parts(draw(FILES)), parts(draw(FILES))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(mine) - 1))
        what = draw(st.sampled_from(("drop", "double", "swap", "foreign", "empty")))
        if what == "drop" and len(mine) > 1:
            del mine[at]
        elif what == "double":
            mine[at:at] = [mine[at]] * draw(st.integers(1, 20))
        elif what == "swap":
            other = draw(st.integers(0, len(mine) - 1))
            mine[at], mine[other] = mine[other], mine[at]
        elif what == "foreign":
            mine[at] = others[draw(st.integers(0, len(others) - 1))]
        else:
            mine[at] = mine[at][: draw(st.integers(0, 12))]
    return b"".join(mine)


@st.composite
def spliced(draw: st.DrawFn) -> bytes:
    """The beginning of one file and the end of another."""
    one, other = draw(FILES), draw(FILES)
    return one[: draw(st.integers(0, len(one)))] + other[draw(st.integers(0, len(other))) :]


@st.composite
def sound_png(draw: st.DrawFn) -> bytes:
    """A PNG whose sums are right and whose head and data are not."""
    extreme = st.one_of(st.integers(0, 40), NUMBERS)
    width, height = draw(extreme) % 2**32, draw(extreme) % 2**32
    depth, colour = draw(st.sampled_from((0, 1, 2, 4, 8, 16))), draw(st.integers(0, 7))
    return png(width, height, depth, colour, draw(st.binary(max_size=300)), interlace=draw(st.integers(0, 1)))


@settings(max_examples=1000, deadline=None, suppress_health_check=PATIENT)
@given(data=st.one_of(bent(), rearranged(), spliced(), sound_png()))
def test_a_file_bent_by_hand_gives_pixels_or_a_reason_and_nothing_else(data: bytes) -> None:
    assert_pixels_or_a_reason(data)


@settings(max_examples=1000, deadline=None, suppress_health_check=PATIENT)
@given(head=st.sampled_from((b"", *(data[:n] for _, data in BASES.values() for n in (4, 16, 40)))), junk=st.binary())
def test_anything_behind_the_head_of_a_image_gives_pixels_or_a_reason(head: bytes, junk: bytes) -> None:
    assert_pixels_or_a_reason(head + junk)
