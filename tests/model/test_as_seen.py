"""Alpha, frames, colour keys, deep samples and orientation come out as a person sees them in a viewer."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from captioning.model.pixels import Limits, Pixels, open_image
from scripts.hostile_images import bmp, png, with_chunks
from scripts.scenes import saved, scene

SIZE = 224
PHOTO = scene(1)
BLACK, WHITE, RED = (Image.new("RGB", PHOTO.size, colour) for colour in ("black", "white", "red"))


LIMITS = Limits()


def pixels(data: bytes, limits: Limits = LIMITS) -> Pixels:
    return open_image(data, SIZE, limits)[0]


def close(one: Pixels, other: Pixels, levels: float = 6) -> bool:
    return float(np.abs(one.astype(int) - other).mean()) < levels


SEEN = pixels(saved(PHOTO, "PNG"))


# -- alpha --


def test_a_bmp_whose_alpha_is_0_everywhere_is_opaque() -> None:
    rows = PHOTO.convert("RGBA")
    rows.putalpha(0)
    raw = rows.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    plain = bmp(*PHOTO.size, 32, b"", compression=3, offset=122)
    head = plain[:14] + struct.pack("<I", 108) + plain[18:54] + masks + bytes(52)
    assert (pixels(head + raw) == SEEN).all()
    half = bytearray(raw)
    half[3::8] = b"\xff" * len(half[3::8])
    assert pixels(head + bytes(half)).mean() > SEEN.mean() + 20  # an alpha that is used is kept


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_transparent_image_stays_white(form: str) -> None:
    clear = PHOTO.convert("RGBA")
    clear.putalpha(0)
    assert (pixels(saved(clear, form, lossless=True)) == 255).all()


# -- frames --


def animation(form: str, *frames: Image.Image, **options: object) -> bytes:
    return saved(frames[0], form, save_all=True, append_images=frames[1:], duration=50, lossless=True, **options)


CLEAR = Image.new("RGBA", PHOTO.size)
OTHER = PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
@pytest.mark.parametrize("blank", [BLACK, WHITE, RED], ids=["black", "white", "red"])
def test_blank_frames_at_the_beginning_are_passed_over(form: str, blank: Image.Image) -> None:
    near = Image.new("RGB", PHOTO.size, tuple(min(v + 3, 255) for v in blank.getpixel((0, 0))))  # type: ignore[union-attr]
    assert close(pixels(animation(form, blank, near, PHOTO, OTHER)), SEEN)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_empty_frame_at_the_beginning_is_passed_over(form: str) -> None:
    assert close(pixels(animation(form, CLEAR, PHOTO.convert("RGBA"))), SEEN)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_that_is_all_blank_gives_its_first_frame(form: str) -> None:
    assert (pixels(animation(form, RED, BLACK, WHITE))[100, 100] == (255, 0, 0)).all()


def test_frames_are_sought_within_the_limit_of_pixels() -> None:
    late = animation("GIF", BLACK, WHITE, RED, PHOTO)
    area = PHOTO.width * PHOTO.height
    assert close(pixels(late, Limits(max_pixels=4 * area)), SEEN)
    assert (pixels(late, Limits(max_pixels=3 * area)) == 0).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_a_damaged_frame_after_a_blank_one_does_not_lose_the_image(form: str) -> None:
    whole = animation(form, BLACK, PHOTO, OTHER)
    for end in (len(whole) // 3, len(whole) // 2):
        assert pixels(whole[:end] + bytes(50)).shape == (SIZE, SIZE, 3)


def test_the_stand_in_of_an_animated_png_is_not_shown() -> None:
    assert (pixels(animation("PNG", OTHER, PHOTO, RED, default_image=True)) == SEEN).all()
    assert (pixels(animation("PNG", OTHER, BLACK, PHOTO, default_image=True)) == SEEN).all()


def test_the_stand_in_does_not_show_through_the_first_frame() -> None:
    half = PHOTO.convert("RGBA")
    half.paste((0, 0, 0, 0), (0, 0, 80, 120))
    shown = pixels(animation("PNG", RED.convert("RGBA"), half, half, default_image=True, blend=1))
    assert (shown[:, :100] == 255).all()


def test_the_stand_in_is_shown_when_the_animation_is_damaged() -> None:
    whole = animation("PNG", PHOTO, RED, BLACK, default_image=True)
    assert (pixels(whole[: whole.index(b"fdAT") - 4]) == SEEN).all()


def gif_of(screen: tuple[int, int], *frames: tuple[Image.Image, tuple[int, int], int]) -> bytes:
    """Return a GIF of frames with a position and a disposal, with black as its background colour."""
    body = b""
    for image, at, disposal in frames:
        whole = saved(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=128), "GIF")
        table = 3 << ((whole[10] & 7) + 1)
        start = whole.index(b",", 13 + table)
        local = bytes([0x80 | whole[10] & 7]) + whole[13 : 13 + table]
        body += b"!\xf9\4" + bytes([disposal << 2, 0, 0, 0, 0])
        body += b"," + struct.pack("<4H", *at, *image.size) + local + whole[start + 10 : -1]
    return b"GIF89a" + struct.pack("<2H", *screen) + b"\x80\0\0" + bytes(6) + body + b";"


def test_what_the_first_frame_of_a_gif_leaves_open_is_white() -> None:
    shown = pixels(gif_of((320, 120), (PHOTO, (0, 0), 1)))
    assert (shown[:, 114:] == 255).all()
    assert not (shown[:, :110] == 255).all()


def test_a_disposed_frame_of_a_gif_leaves_white_and_not_its_background_colour() -> None:
    shown = pixels(gif_of((320, 120), (Image.new("RGB", (320, 120), "red"), (0, 0), 2), (PHOTO, (160, 0), 1)))
    assert (shown[:, :110] == 255).all()


def test_a_restored_frame_of_a_gif_leaves_what_was_before() -> None:
    blue, red = Image.new("RGB", (320, 120), "blue"), Image.new("RGB", (320, 120), "red")
    shown = pixels(gif_of((320, 120), (blue, (0, 0), 1), (red, (0, 0), 3), (PHOTO, (160, 0), 1)))
    assert (shown[112, 50] == (0, 0, 255)).all()


# -- colour keys and depth --


def packed(values: list[int], depth: int) -> bytes:
    bits = "".join(f"{value:0{depth}b}" for value in values)
    return b"\0" + bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_grey_that_a_png_names_is_transparent_at_every_depth(depth: int) -> None:
    top = (1 << depth) - 1
    for key in (0, top // 2):
        other = 0 if key else top
        row = packed([key] * 4 + [other] * 4, depth)
        shown = pixels(with_chunks(png(8, 2, depth, 0, row * 2), (b"tRNS", struct.pack(">H", key))))
        assert (shown[:, :80] == 255).all(), (depth, key)
        assert (shown[:, 144:] == (255 if other else 0)).all(), (depth, key)


def test_the_colour_that_a_16_bit_png_names_is_transparent_and_its_neighbour_is_not() -> None:
    row = b"\0" + struct.pack(">24H", *(40_000, 300, 300) * 4, *(40_001, 300, 300) * 4)
    shown = pixels(with_chunks(png(8, 2, 16, 2, row * 2), (b"tRNS", struct.pack(">3H", 40_000, 300, 300))))
    assert (shown[:, :80] == 255).all()
    assert shown[100, 200].tolist() == [156, 1, 1]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_palette_entry_that_a_png_names_is_transparent_at_every_depth(depth: int) -> None:
    row = packed([0] * 4 + [1] * 4, depth)
    whole = with_chunks(png(8, 2, depth, 3, row * 2), (b"PLTE", b"\xff\0\0\0\0\xff"), (b"tRNS", b"\0"))
    shown = pixels(whole)
    assert (shown[:, :80] == 255).all()
    assert (shown[:, 144:] == (0, 0, 255)).all()


def ramp16(channels: int, top: int, shift: int = 0) -> bytes:
    values = np.linspace(0, top, 256).round().astype(np.uint16) << shift
    row = b"\0" + np.repeat(values[:, None], channels, 1).astype(">u2").tobytes()
    return png(256, 4, 16, {1: 0, 3: 2}[channels], row * 4)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_10_and_12_bits_in_16_are_not_black(bits: int, channels: int) -> None:
    plain = ramp16(channels, (1 << bits) - 1)
    for data in (plain, with_chunks(plain, (b"sBIT", bytes([bits] * channels)))):
        middle = pixels(data)[100, :, 0]
        assert middle[0] < 4
        assert abs(int(middle[112]) - 128) < 4
        assert middle[-1] > 251


def test_samples_that_fill_16_bits_keep_their_scale_whatever_is_said_about_them() -> None:
    scaled = ramp16(1, 4095, shift=4)
    assert (pixels(with_chunks(scaled, (b"sBIT", b"\x0c"))) == pixels(scaled)).all()
    assert pixels(with_chunks(ramp16(1, 16_000), (b"sBIT", b"\x0e"))).max() > 245


@pytest.mark.parametrize("colour", [4, 6])
def test_10_bits_beside_an_alpha_are_not_black(colour: int) -> None:
    pixel = struct.pack(">2H", 1000, 65_535) if colour == 4 else struct.pack(">4H", 1000, 1000, 1000, 65_535)
    assert (pixels(png(4, 2, 16, colour, (b"\0" + pixel * 4) * 2)) > 240).all()


# -- orientation --


def exif_block(kind: int, value: bytes, order: str = "<") -> bytes:
    """Return an Exif block with one entry, the orientation, of this type."""
    size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}[kind]
    entry = struct.pack(order + "HHI", 0x0112, kind, len(value) // size)
    place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", 26)
    tail = value if len(value) > 4 else b""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 1) + entry + place + bytes(4) + tail


def with_blocks(*blocks: bytes) -> bytes:
    whole = saved(PHOTO, "JPEG", quality=95)
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks)
    return whole[:2] + segments + whole[2:]


TURNED = pixels(with_blocks(exif_block(3, b"\6\0")))
UPRIGHT = pixels(with_blocks())


@pytest.mark.parametrize(
    "block",
    [
        exif_block(3, b"\0\6", ">"),
        exif_block(1, b"\6"),
        exif_block(1, b"\6", ">"),
        exif_block(2, b"6\0"),
        exif_block(4, b"\6\0\0\0"),
        exif_block(5, struct.pack("<2I", 6, 1)),
        exif_block(3, b"\6\0\1\0"),
    ],
    ids=["short", "byte", "big-endian byte", "ascii", "long", "rational", "two numbers"],
)
def test_an_orientation_of_any_type_turns_the_image(block: bytes) -> None:
    assert (pixels(with_blocks(block)) == TURNED).all()
    assert open_image(with_blocks(block), SIZE)[1].width == PHOTO.height


@pytest.mark.parametrize(
    "first",
    [b"Exif\0\0", b"Exif\0\0" + bytes(20), exif_block(3, b"\6\0")[:14] + b"\0\0" + bytes(4), exif_block(3, b"\0\0")],
    ids=["nothing", "zeros", "no entries", "orientation 0"],
)
def test_an_empty_first_block_does_not_hide_the_second(first: bytes) -> None:
    assert (pixels(with_blocks(first, exif_block(3, b"\6\0"))) == TURNED).all()


def test_damaged_exif_is_ignored() -> None:
    for block in (b"Exif\0\0garbage", exif_block(2, b"up\0"), exif_block(3, b"\6\0")[:20], exif_block(3, b"\xff\xff")):
        assert (pixels(with_blocks(block)) == UPRIGHT).all()


def test_the_image_of_a_photograph_is_what_pillow_shows() -> None:
    with Image.open(io.BytesIO(saved(PHOTO, "PNG"))) as image:
        assert (np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) == SEEN).all()
