"""Images of every supported kind are decoded as a viewer shows them on a white page."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioning.errors import ImageError
from captioning.model.pixels import Limits, open_image
from captioning.values import Reason

SIZE = 224
LIMITS = Limits()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def quarters(width: int = 400, height: int = 200) -> Image.Image:
    """Return an image with red and green quarters above, blue and white ones below."""
    image = Image.new("RGB", (width, height))
    for x, y, colour in ((0, 0, RED), (1, 0, GREEN), (0, 1, BLUE), (1, 1, WHITE)):
        image.paste(colour, (x * width // 2, y * height // 2, (x + 1) * width // 2, (y + 1) * height // 2))
    return image


def colours(data: bytes) -> list[tuple[int, ...]]:
    """Return the colours in the middle of the four quarters, each channel rounded to 0 or 255."""
    pixels, _ = open_image(data, SIZE, LIMITS)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    return [tuple(int(v > 127) * 255 for v in pixels[y, x]) for y in (56, 168) for x in (56, 168)]


def reason(data: bytes, limits: Limits = LIMITS) -> Reason:
    with pytest.raises(ImageError) as caught:
        open_image(data, SIZE, limits)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    upright = quarters()
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # undone by the viewer
    stored = upright.transpose(Image.Transpose(inverse[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind != "PNG" else {}
    data = saved(stored, kind, exif=exif, **options)
    assert colours(data) == [RED, GREEN, BLUE, WHITE]
    _, info = open_image(data, SIZE, LIMITS)
    assert (info.width, info.height, info.format) == (400, 200, kind)


def test_transparent_pixels_are_white() -> None:
    image = quarters().convert("RGBA")
    image.paste((255, 0, 0, 0), (0, 0, 200, 100))
    for kind in ("PNG", "WEBP"):
        assert colours(saved(image, kind)) == [WHITE, GREEN, BLUE, WHITE]


def test_half_transparent_red_is_pink() -> None:
    pixels, _ = open_image(saved(Image.new("RGBA", (50, 50), (255, 0, 0, 128)), "PNG"), SIZE, LIMITS)
    assert np.abs(pixels[100, 100].astype(int) - (255, 127, 127)).max() <= 1


def test_a_transparent_palette_colour_is_white() -> None:
    image = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    index = image.getpixel((10, 10))
    assert colours(saved(image, "PNG")) == [RED, GREEN, BLUE, WHITE]
    assert colours(saved(image, "PNG", transparency=index)) == [WHITE, GREEN, BLUE, WHITE]
    assert colours(saved(image, "GIF", transparency=index)) == [WHITE, GREEN, BLUE, WHITE]


def test_a_colour_key_in_rgb_is_white() -> None:
    assert colours(saved(quarters(), "PNG", transparency=RED)) == [WHITE, GREEN, BLUE, WHITE]


def test_cmyk_keeps_its_colours() -> None:
    assert colours(saved(quarters().convert("CMYK"), "JPEG", quality=95)) == [RED, GREEN, BLUE, WHITE]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, 400).astype(np.uint16), (200, 1))
    pixels, _ = open_image(saved(Image.fromarray(ramp), "PNG"), SIZE, LIMITS)
    middle = pixels[112, :, 0].astype(int)
    assert abs(middle[112] - 128) < 4
    assert (np.diff(middle) >= 0).all()
    assert middle[0] < 4
    assert middle[-1] > 251


def test_only_the_colour_key_of_16_bit_grey_is_white() -> None:
    levels = Image.fromarray(np.repeat(np.array([[0, 30000], [60000, 60000]], np.uint16), 100, 0).repeat(100, 1))
    pixels, _ = open_image(saved(levels, "PNG", transparency=60000), SIZE, LIMITS)
    assert [int(pixels[y, x, 0]) for y, x in ((56, 56), (56, 168), (168, 56))] == [0, 117, 255]


def test_16_bit_colour_keeps_its_colours() -> None:
    raw = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 0, 0, 0, 65535) for _ in range(2))
    assert colours(png(2, 2, 16, 2, raw)) == [RED, BLUE, RED, BLUE]


def png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_grey_black_and_white_and_bmp_are_decoded() -> None:
    for mode in ("L", "1", "LA"):
        pixels, _ = open_image(saved(quarters().convert(mode), "PNG"), SIZE, LIMITS)
        assert pixels[168, 168].tolist() == [255, 255, 255]
    assert colours(saved(quarters(), "BMP")) == [RED, GREEN, BLUE, WHITE]


def test_the_first_frame_of_an_animation_is_decoded() -> None:
    frames = [quarters(), Image.new("RGB", (400, 200), "black")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, lossless=True)
        assert colours(data) == [RED, GREEN, BLUE, WHITE]


def test_the_first_image_of_a_camera_pair_is_decoded() -> None:
    pair = saved(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (400, 200), "black")], quality=95)
    assert colours(pair) == [RED, GREEN, BLUE, WHITE]
    assert open_image(pair, SIZE, LIMITS)[1].format == "JPEG"


def test_a_small_image_is_enlarged_and_a_narrow_one_is_distorted() -> None:
    assert colours(saved(quarters(2, 2), "PNG"))[0] == RED
    assert colours(saved(quarters(2000, 3), "PNG"))[0] == RED
    assert open_image(saved(Image.new("RGB", (1, 1), RED), "PNG"), SIZE, LIMITS)[1].width == 1


def test_all_lossless_formats_give_the_same_pixels() -> None:
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (300, 500, 3), dtype=np.uint8))
    first = open_image(saved(image, "PNG"), SIZE, LIMITS)[0]
    assert (open_image(saved(image, "BMP"), SIZE, LIMITS)[0] == first).all()
    assert (open_image(saved(image, "WEBP", lossless=True), SIZE, LIMITS)[0] == first).all()


def test_an_image_of_the_right_size_is_not_changed() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert (open_image(saved(Image.fromarray(pixels), "PNG"), SIZE, LIMITS)[0] == pixels).all()


def test_a_large_jpeg_needs_little_memory() -> None:
    """108 megapixels are 324 MB in RGB; decoding gets 250 MB beyond what Python and its libraries use."""
    data = saved(quarters(12000, 9000), "JPEG", quality=50)
    code = """
import resource, sys
from captioning.model.pixels import Limits, open_image
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000,) * 2)
pixels, info = open_image(sys.stdin.buffer.read(), 224, Limits())
print(info.width, info.height, pixels[56, 56].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    width, height, *red = done.stdout.decode().replace("[", "").replace("]", "").replace(",", "").split()
    assert (width, height) == ("12000", "9000")
    assert np.abs(np.array(red, int) - RED).max() < 5


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = png(30000, 30000, 8, 2, b"")
    assert reason(bomb) is Reason.TOO_LARGE


def test_limits_can_be_set() -> None:
    data = saved(quarters(), "PNG")
    assert reason(data, Limits(max_pixels=400 * 200 - 1)) is Reason.TOO_LARGE
    assert open_image(data, SIZE, Limits(max_pixels=400 * 200))[1].width == 400


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_an_image_that_is_cut_short_has_a_reason(kind: str) -> None:
    rng = np.random.default_rng(3)
    data = saved(Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)), kind)
    assert reason(data[: len(data) // 2]) in (Reason.TRUNCATED, Reason.UNREADABLE)


def test_a_jpeg_that_is_cut_short_is_truncated() -> None:
    data = saved(quarters(), "JPEG")
    assert reason(data[: len(data) * 2 // 3]) is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Reason.UNREADABLE),
        (b"hello, I am a text file\n", Reason.UNREADABLE),
        (b"\xff\xd8\xff", Reason.UNREADABLE),
        (b"II*\x00" + bytes(100), Reason.UNSUPPORTED),
        (b"\x00\x00\x00\x18ftypheic" + bytes(100), Reason.UNSUPPORTED),
        (b"%PDF-1.7 ...", Reason.UNSUPPORTED),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Reason.UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", Reason.UNSUPPORTED),
    ],
)
def test_a_file_in_no_supported_format_has_a_reason(data: bytes, expected: Reason) -> None:
    assert reason(data) is expected


PLAIN = {kind: saved(quarters(64, 48), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP")}


@settings(max_examples=300)
@given(kind=st.sampled_from(sorted(PLAIN)), at=st.floats(0, 1), junk=st.binary(min_size=1, max_size=40))
def test_damage_anywhere_gives_pixels_or_a_reason_and_nothing_else(kind: str, at: float, junk: bytes) -> None:
    whole = PLAIN[kind]
    start = int(at * len(whole))
    try:
        pixels, _ = open_image(whole[:start] + junk + whole[start + len(junk) :], SIZE, LIMITS)
    except ImageError:
        return
    assert pixels.shape == (SIZE, SIZE, 3)
