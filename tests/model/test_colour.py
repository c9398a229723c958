"""Colours reach the model in sRGB, whatever profile or PNG chunk says what they are; plain images stay as they are."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from captioning.model import colour
from captioning.model.pixels import Pixels, open_image
from captioning.values import PREPROCESSING_VERSION
from scripts.hostile_images import bases, png, with_chunks
from scripts.sample_images import copy_samples
from scripts.scenes import saved, scene

SIZE = 224
P3 = (((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), (0.3127, 0.3290))
LINEAR, GAMMA_18 = colour._power(1.0), colour._power(1.8)


def pixels(data: bytes) -> Pixels:
    return open_image(data, SIZE)[0]


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def profile(primaries: tuple[tuple[float, float], ...], white: tuple[float, float], curve: bytes) -> bytes:
    made = colour._profile(primaries, white, curve)
    assert made is not None
    return made


WIDE = {
    "Display P3": profile(*P3, colour._SRGB_CURVE),
    "linear": profile(*colour._PRIMARIES[1], LINEAR),
    "BT.2020 with gamma 1.8": profile(*colour._PRIMARIES[9], GAMMA_18),
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def stored(image: Image.Image, icc: bytes) -> Image.Image:
    """Return the sRGB image as it is stored with a profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode="RGB")
    assert converted is not None
    del converted.info["icc_profile"]  # it would be saved
    return converted


@pytest.mark.parametrize("name", sorted(WIDE))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_profile_gives_the_colours_that_the_photograph_had(name: str, form: str) -> None:
    plain = scene(size=(448, 448))
    options = {"quality": 95} if form != "PNG" else {}
    wide = saved(stored(plain, WIDE[name]), form, icc_profile=WIDE[name], **options)
    ignored = saved(stored(plain, WIDE[name]), form, **options)
    assert difference(pixels(wide), pixels(saved(plain, form, **options))) < 2
    assert difference(pixels(ignored), pixels(saved(plain, form, **options))) > 4


def test_transparency_is_kept_beside_a_profile() -> None:
    image = stored(scene(), WIDE["linear"]).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 80, 120))
    seen = pixels(saved(image, "PNG", icc_profile=WIDE["linear"]))
    assert (seen[:, :100] == 255).all()
    assert difference(seen[:, 120:], pixels(saved(scene(), "PNG"))[:, 120:]) < 2


def grey_profile() -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256) + b"\0\0"
    tags = {b"wtpt": b"XYZ \0\0\0\0" + colour._fixed(*colour._D50), b"kTRC": curve}
    return colour._icc(tags).replace(b"RGB XYZ ", b"GRAYXYZ ", 1)


def test_grey_is_converted_by_a_grey_profile_and_by_an_rgb_one() -> None:
    grey = Image.new("L", (64, 64), 55)  # 0.216 of the light is 128 in sRGB
    for icc in (grey_profile(), WIDE["linear"]):
        for form in ("PNG", "JPEG"):
            assert abs(int(pixels(saved(grey, form, icc_profile=icc))[100, 100, 0]) - 128) <= 1
        assert abs(int(pixels(saved(grey.convert("LA"), "PNG", icc_profile=icc))[100, 100, 0]) - 128) <= 1


def test_a_grey_profile_is_applied_to_grey_in_every_form_in_which_it_is_read() -> None:
    grey = Image.new("L", (64, 64), 55)
    label = (b"iCCP", b"x\0\0" + zlib.compress(grey_profile()))
    spotted = grey.copy()
    spotted.paste(200, (0, 0, 9, 9))
    deep = png(2, 2, 16, 4, (b"\0" + struct.pack(">2H", 55 * 257, 65_535) * 2) * 2)
    keyed = with_chunks(saved(grey, "PNG"), (b"tRNS", b"\0\7"))
    frames = saved(Image.new("L", (64, 64)), "PNG", save_all=True, append_images=[spotted])
    for data in (deep, keyed, frames):
        assert abs(int(pixels(with_chunks(data, label))[100, 100, 0]) - 128) <= 1


def jpeg_with_parts(jpeg: bytes, icc: bytes, order: tuple[int, ...], at: bytes = b"\xff\xdb") -> bytes:
    """Return a JPEG with a profile in four parts in this order, before this marker."""
    size = len(icc) // 4 + 1
    bodies = (b"ICC_PROFILE\0" + bytes((n, 4)) + icc[(n - 1) * size : n * size] for n in order)
    parts = b"".join(b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body for body in bodies)
    start = jpeg.index(at)
    return jpeg[:start] + parts + jpeg[start:]


def test_the_parts_of_a_jpeg_profile_may_lie_anywhere_and_a_missing_one_leaves_the_image() -> None:
    plain = saved(stored(scene(), WIDE["linear"]), "JPEG", quality=95)
    managed = pixels(saved(stored(scene(), WIDE["linear"]), "JPEG", quality=95, icc_profile=WIDE["linear"]))
    for order, at in (((4, 2, 1, 3), b"\xff\xdb"), ((1, 2, 2, 3, 4), b"\xff\xdb"), ((1, 2, 3, 4), b"\xff\xda")):
        assert (pixels(jpeg_with_parts(plain, WIDE["linear"], order, at)) == managed).all()
    assert (pixels(jpeg_with_parts(plain, WIDE["linear"], (1, 2, 4))) == pixels(plain)).all()


def test_a_profile_in_a_gif_is_applied() -> None:
    whole = saved(stored(scene(), WIDE["linear"]).quantize(256), "GIF")
    icc, start = WIDE["linear"], 13 + (3 << ((whole[10] & 7) + 1))
    blocks = b"".join(bytes([len(icc[i : i + 255])]) + icc[i : i + 255] for i in range(0, len(icc), 255))
    labelled = whole[:start] + b"!\xff\x0bICCRGBG1012" + blocks + b"\0" + whole[start:]
    assert difference(pixels(labelled), pixels(saved(scene(), "PNG"))) < 3


def test_a_large_profile_in_a_png_is_applied() -> None:
    large = WIDE["linear"] + bytes(2_000_000)
    labelled = saved(stored(scene(), WIDE["linear"]), "PNG", icc_profile=large)
    assert difference(pixels(labelled), pixels(saved(scene(), "PNG"))) < 2


@pytest.mark.parametrize(("index", "space", "is_wide"), [("R03", 65_535, True), ("R98", 1, False), ("R03", 1, False)])
def test_a_camera_may_name_adobe_rgb_in_its_exif_data_alone(index: str, space: int, is_wide: bool) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0xA001: space, 0xA005: {1: index}}
    adobe = profile(colour._ADOBE_RGB, colour._D65, colour._power(2.2))
    image = stored(scene(), adobe) if is_wide else scene()
    assert difference(pixels(saved(image, "JPEG", quality=95, exif=exif)), pixels(saved(scene(), "PNG"))) < 3


def cmyk_profile() -> bytes:
    """Return a profile of a press whose inks are weak: full cyan is light blue, as a table of 2 x 2 x 2 x 2 colours."""
    lab = []
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = 100 * (1 - 0.3 * c) * (1 - 0.4 * m) * (1 - 0.1 * y) * (1 - k)
        lab += [light, (-30 * c + 60 * m) * (1 - k), (-40 * c + 70 * y) * (1 - k)]
    values = np.array(lab).reshape(-1, 3) * (655.35, 257, 257) + (0, 128 * 257, 128 * 257)
    table = values.clip(0, 65535).round().astype(">u2").tobytes()
    ramps = struct.pack(">2H", 0, 65535)
    matrix = colour._fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    clut = b"mft2\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + struct.pack(">2H", 2, 2) + ramps * 4 + table + ramps * 3
    tags = {b"wtpt": b"XYZ \0\0\0\0" + colour._fixed(*colour._D50), b"A2B0": clut}
    return colour._icc(tags).replace(b"mntrRGB XYZ ", b"prtrCMYKLab ", 1)


def test_cmyk_is_converted_by_its_profile() -> None:
    cyan = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    managed = pixels(saved(cyan, "JPEG", quality=95, icc_profile=cmyk_profile()))[100, 100].astype(int)
    assert pixels(saved(cyan, "JPEG", quality=95))[100, 100, 0] < 5
    expected = (0, 184, 242)  # Lab(70, -30, -40) in sRGB, out of its gamut in red
    assert np.abs(managed - expected).max() < 8


USELESS = {
    "garbage": b"garbage" * 40,
    "cut": WIDE["linear"][:200],
    "header only": WIDE["linear"][:128],
    "black": profile(*P3, b"curv\0\0\0\0" + struct.pack(">IHH", 2, 0, 0)),
    "zeros": bytes(500),
    "of another space": cmyk_profile(),
    "of a link between devices": WIDE["linear"].replace(b"mntr", b"link", 1),
    "huge": WIDE["linear"] + bytes(9_000_000),
}


@pytest.mark.parametrize("name", sorted(USELESS))
def test_a_profile_that_cannot_be_used_changes_nothing(name: str) -> None:
    for form, image in (("JPEG", scene()), ("WEBP", scene()), ("JPEG", scene().convert("L"))):
        plain, labelled = saved(image, form), saved(image, form, icc_profile=USELESS[name])
        assert (pixels(labelled) == pixels(plain)).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_srgb_by_any_name_leaves_the_pixels_as_they_are(form: str) -> None:
    for icc in (SRGB, profile(*colour._PRIMARIES[1], colour._SRGB_CURVE)):
        assert (pixels(saved(scene(), form, icc_profile=icc)) == pixels(saved(scene(), form))).all()


def chunk(name: bytes, *numbers: float) -> tuple[bytes, bytes]:
    return name, struct.pack(f">{len(numbers)}I", *(round(100_000 * n) for n in numbers))


REC709_CHRM = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3_CHRM = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


@pytest.mark.parametrize(
    ("chunks", "name"),
    [
        ([chunk(b"gAMA", 1.0)], "linear"),
        ([chunk(b"gAMA", 1.0), chunk(b"cHRM", *REC709_CHRM)], "linear"),
        ([chunk(b"gAMA", 0.45455), chunk(b"cHRM", *P3_CHRM)], "Display P3"),
        ([(b"cICP", bytes((12, 13, 0, 1)))], "Display P3"),
        ([(b"cICP", bytes((1, 8, 0, 1))), (b"iCCP", b"x\0\0" + zlib.compress(SRGB))], "linear"),
    ],
)
def test_a_png_may_say_its_colours_in_chunks(chunks: list[tuple[bytes, bytes]], name: str) -> None:
    wide = saved(stored(scene(), WIDE[name]), "PNG")
    assert difference(pixels(with_chunks(wide, *chunks)), pixels(saved(scene(), "PNG"))) < 2


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"gAMA", 0.45455)],
        [chunk(b"gAMA", 0.45455), chunk(b"cHRM", *REC709_CHRM)],
        [chunk(b"gAMA", 0)],
        [chunk(b"gAMA", 40_000)],
        [chunk(b"cHRM", *(0,) * 8)],
        [chunk(b"cHRM", *(0.3,) * 8)],
        [chunk(b"gAMA", 1.0), (b"sRGB", b"\0")],
        [(b"cICP", bytes((1, 13, 0, 1)))],
        [(b"cICP", bytes((2, 2, 0, 1)))],
        [(b"cICP", bytes((12, 13, 1, 0)))],
        [(b"cICP", b"\x0c")],
        [(b"gAMA", b"\0")],
    ],
)
def test_chunks_that_mean_srgb_or_nothing_change_nothing(chunks: list[tuple[bytes, bytes]]) -> None:
    plain = saved(scene(), "PNG")
    assert (pixels(with_chunks(plain, *chunks)) == pixels(plain)).all()


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_colours_are_shown_with_paper_white_as_white(transfer: int) -> None:
    white = 148 if transfer == 16 else 191  # 203 nits
    image = saved(Image.fromarray(np.repeat(np.array([[0, white, 255]], np.uint8), 3, 0)).convert("RGB"), "PNG")
    seen = pixels(with_chunks(image, (b"cICP", bytes((9, transfer, 0, 1)))))[112, (10, 112, 214), 1]
    assert seen[0] < 8
    assert (seen[1:] > 245).all()


def test_a_damaged_text_beside_a_profile_loses_neither_the_image_nor_its_colours() -> None:
    wide = saved(stored(scene(), WIDE["linear"]), "PNG", icc_profile=WIDE["linear"])
    bomb = b"a\0\0" + zlib.compress(bytes(64_000_000), 9)
    assert (pixels(with_chunks(wide, (b"zTXt", bomb))) == pixels(wide)).all()


def bmp_with_profile(image: Image.Image, icc: bytes) -> bytes:
    plain = saved(image, "BMP")
    body = plain[54:]
    head = bytearray(124)
    head[:40] = struct.pack("<I", 124) + plain[18:54]
    head[56:60] = b"DEBM"
    head[112:120] = struct.pack("<II", 124 + len(body), len(icc))
    return b"BM" + struct.pack("<IHHI", 138 + len(body) + len(icc), 0, 0, 138) + bytes(head) + body + icc


def test_a_profile_in_a_bmp_is_applied() -> None:
    wide = bmp_with_profile(stored(scene(), WIDE["linear"]), WIDE["linear"])
    assert difference(pixels(wide), pixels(saved(scene(), "BMP"))) < 2


PLAIN = {  # by version 1: the beginning of the pixels' SHA-256. The tenth, rocket.jpg, has a profile
    "astronaut.png": "1b8467c224081c5f",
    "camera.png": "7e5231717fa9eb6d",
    "chelsea.png": "af5cb2be868c96c1",
    "coffee.png": "00dcee0315c7e8cf",
    "grass.png": "ac9555005107a33c",
    "hubble_deep_field.jpg": "3c227f71ca69732d",
    "motorcycle_left.png": "3b4a8255f57f06e1",
    "china.jpg": "bee5efa8d7feb9f6",
    "flower.jpg": "2db3f52b1acc802c",
}


def test_plain_photographs_keep_the_pixels_of_version_1(tmp_path: Path) -> None:
    """What was trained and captioned with version 1 stays valid for images without a profile."""
    assert PREPROCESSING_VERSION == 2
    for path in copy_samples(tmp_path):
        if path.name in PLAIN:
            assert hashlib.sha256(pixels(path.read_bytes()).tobytes()).hexdigest()[:16] == PLAIN[path.name], path.name


@pytest.mark.parametrize("kind", sorted(bases()))
def test_plain_files_of_each_format_keep_the_pixels_of_version_1(kind: str) -> None:
    """The reference is the way of version 1, without its steps for colours and frames."""
    data = bases()[kind][1]
    with Image.open(io.BytesIO(data)) as image:
        rgba = image.convert("RGBA")
        page = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        reference = np.asarray(page.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert (pixels(data) == reference).all()
