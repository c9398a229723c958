"""The extra formats: HEIC, AVIF, TIFF, JPEG 2000, JPEG XL, Photoshop, and the previews in RAW files."""

import struct

import numpy as np
import pylibjxl
import pytest
from PIL import Image, ImageCms, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from captioning.errors import ImageError
from captioning.model import formats
from captioning.model.pixels import Limits, Pixels, open_image
from captioning.model.signatures import identify
from captioning.values import ImageInfo, Reason
from scripts.format_images import (
    SEED,
    box,
    dng,
    extra_bases,
    heic,
    heic_file,
    heic_grid,
    psd,
    psd_resource,
)
from scripts.scenes import saved, scene

ALLOWED = formats.BASIC + formats.installed()
SIZE = 224
LIMITS = Limits()
PHOTO = scene(SEED)  # 160 x 120
EXTRA = extra_bases()
DISPLAY_P3 = struct.pack(">HHHB", 12, 13, 6, 0x80)


def decoded(data: bytes, limits: Limits = LIMITS) -> tuple[Pixels, ImageInfo]:
    return open_image(data, SIZE, limits, ALLOWED)


def refusal(data: bytes, allowed: tuple[str, ...] = ALLOWED) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(data, SIZE, Limits(), allowed)
    return caught.value


def difference(one: bytes, other: Image.Image | bytes) -> float:
    """Return the mean difference of two images, in levels of 255."""
    right = other if isinstance(other, bytes) else saved(other, "PNG")
    return float(np.abs(decoded(one)[0].astype(int) - decoded(right)[0]).mean())


def turned(image: Image.Image) -> Image.Image:
    """Return the image as its orientation 6 shows it."""
    return image.transpose(Image.Transpose.ROTATE_270)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def test_every_extra_format_is_installed_for_the_tests() -> None:
    assert set(formats.installed()) == set(formats.EXTRA)


@pytest.mark.parametrize("name", EXTRA)
def test_every_format_shows_the_scene(name: str) -> None:
    pixels, info = decoded(EXTRA[name][1])
    assert info.format in formats.EXTRA
    if "tiles" not in name:
        assert (info.width, info.height) == (160, 120)
        grey = name in ("fax", "TIFF of 16 bits", "TIFF of numbers", "JPEG 2000 codestream")
        expected = {"fax": PHOTO.convert("1"), "HEIC with alpha": _faded()}.get(
            name, PHOTO.convert("L") if grey else PHOTO
        )
        assert difference(EXTRA[name][1], expected) < 3
    assert pixels.shape == (SIZE, SIZE, 3)


def _faded() -> Image.Image:
    layer = PHOTO.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
    return layer


def test_heic_of_tiles_is_put_together() -> None:
    whole = Image.new("RGB", (320, 240))
    for at in ((0, 0), (160, 0), (0, 120), (160, 120)):
        whole.paste(PHOTO, at)
    assert difference(heic_grid(2, 2, (320, 240)), whole) < 3


# -- orientation --


def camera_jpeg() -> bytes:
    """Return a JPEG that is turned and begins with its Exif data, as cameras write it."""
    whole = saved(PHOTO, "JPEG", quality=95, exif=exif(6))
    return whole[:2] + whole[4 + int.from_bytes(whole[4:6], "big") :]


@pytest.mark.parametrize(
    "data",
    [
        heic(box(b"irot", b"\3")),
        saved(PHOTO, "AVIF", exif=exif(6)),
        saved(PHOTO, "TIFF", exif=exif(6)),
        saved(PHOTO, "TIFF", exif=exif(6), compression="tiff_lzw"),
        dng(saved(PHOTO, "JPEG", quality=95), PHOTO.size, orientation=6),
        dng(camera_jpeg(), PHOTO.size, orientation=1),
        dng(camera_jpeg(), PHOTO.size, orientation=6),
    ],
    ids=["HEIC", "AVIF", "TIFF", "compressed TIFF", "RAW", "preview", "RAW and preview"],
)
def test_an_image_is_turned_upright_once(data: bytes) -> None:
    assert decoded(data)[1].width == 120
    assert difference(data, turned(PHOTO)) < 4


def test_a_heic_is_mirrored_as_its_container_says() -> None:
    assert difference(heic(box(b"imir", b"\1")), PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 3


def test_the_exif_orientation_of_a_heic_is_not_applied() -> None:
    """Its container says how it is turned; the Exif data repeats what was so before."""
    assert decoded(heic_file("scene"))[1].width == 160


# -- colours --


def p3() -> bytes:
    """Return the ICC profile that the coding of Display P3 stands for, as a PNG with this coding gets it."""
    from captioning.model.colour import _coded

    return _coded(bytes((12, 13, 0, 1))) or b""


def test_the_profile_of_a_heic_is_applied() -> None:
    expected = saved(PHOTO, "PNG", icc_profile=p3())
    assert difference(expected, PHOTO) > 5
    assert difference(heic(box(b"colr", b"prof" + p3())), expected) < 3
    assert difference(heic(box(b"colr", b"nclx" + DISPLAY_P3)), expected) < 3


@pytest.mark.parametrize("form", ["AVIF", "TIFF"])
def test_an_icc_profile_is_applied(form: str) -> None:
    assert difference(saved(PHOTO, form, icc_profile=p3()), saved(PHOTO, "PNG", icc_profile=p3())) < 3


def test_the_profile_of_a_jpeg_2000_is_applied() -> None:
    whole = saved(PHOTO, "JPEG2000")
    at = whole.index(b"jp2h") - 4
    size = int.from_bytes(whole[at : at + 4], "big")
    head = whole[at : at + size]
    colour = head.index(b"colr") - 4
    profiled = head[:colour] + box(b"colr", b"\2\0\0" + p3())
    data = whole[:at] + struct.pack(">I", len(profiled)) + profiled[4:] + whole[at + size :]
    assert difference(data, saved(PHOTO, "PNG", icc_profile=p3())) < 3


def test_cmyk_without_a_profile_looks_alike_in_every_format() -> None:
    cmyk = PHOTO.convert("CMYK")
    assert difference(saved(cmyk, "TIFF"), PHOTO) < 1
    assert difference(psd(_inverted(cmyk)), PHOTO) < 1


def _inverted(cmyk: Image.Image) -> Image.Image:
    """Return CMYK as Photoshop stores it: 0 is full ink."""
    return cmyk.point(lambda value: 255 - value)


def test_lab_is_converted() -> None:
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    assert difference(psd(lab.apply(PHOTO)), PHOTO) < 3
    assert difference(saved(lab.apply(PHOTO), "TIFF"), PHOTO) < 3


# -- samples above 8 bits --

RAMP = np.tile(np.arange(256, dtype=np.float32), (64, 1))


@pytest.mark.parametrize(
    "values",
    [RAMP / 255, RAMP.astype(np.uint16) * 257, (RAMP * 40 - 3000).astype(np.float32), RAMP.astype(np.int32) * 257],
    ids=["0 to 1", "16 bits", "any numbers", "32 bits"],
)
def test_numbers_of_a_tiff_become_all_shades_from_black_to_white(values: np.ndarray) -> None:
    pixels = decoded(saved(Image.fromarray(values), "TIFF"))[0]
    assert pixels[100, 2].max() < 6
    assert pixels[100, -3].min() > 249
    assert abs(int(pixels[100, 112, 0]) - 128) < 4


def test_what_is_no_number_does_not_spoil_an_image() -> None:
    values = RAMP / 255
    values[10:20, 10:20] = np.nan
    values[30, 30] = np.inf
    assert decoded(saved(Image.fromarray(values), "TIFF"))[0][100, -3].min() > 249


def test_a_big_endian_tiff_of_16_bits_is_read() -> None:
    values = RAMP.astype(np.uint16) * 257
    image = Image.frombytes("I;16B", (256, 64), values.astype(">u2").tobytes())
    assert decoded(saved(image, "TIFF"))[0][100, -3].min() > 249


# -- transparency --


@pytest.mark.parametrize("form", ["TIFF", "AVIF", "JPEG2000"])
def test_transparency_shows_a_white_page(form: str) -> None:
    assert difference(saved(_faded(), form), _faded()) < 3


def test_transparency_of_a_jpeg_xl_shows_a_white_page() -> None:
    assert difference(pylibjxl.encode(np.asarray(_faded())), _faded()) < 3


def test_a_selection_in_a_photoshop_file_is_no_transparency() -> None:
    clear = Image.new("L", PHOTO.size)
    assert difference(psd(PHOTO, alpha=clear), PHOTO) < 1
    assert difference(psd(PHOTO, alpha=clear, layers=1), PHOTO) < 1
    assert decoded(psd(PHOTO, alpha=clear, layers=-1))[0].min() == 255


# -- several images in a file --


def test_the_first_page_of_a_tiff_is_captioned_however_many_there_are() -> None:
    pages = saved(PHOTO, "TIFF", save_all=True, append_images=[scene(n) for n in range(20)])
    assert difference(pages, PHOTO) < 1
    assert open_image(pages, SIZE, Limits(max_frames=1), ALLOWED)[1].width == 160


# -- limits --


@pytest.mark.parametrize("name", [name for name in EXTRA if name != "DNG"])
def test_an_image_above_the_limit_is_refused_before_it_is_decoded(name: str) -> None:
    with pytest.raises(ImageError, match="CAPTIONING_MAX_PIXELS") as caught:
        decoded(EXTRA[name][1], Limits(max_pixels=19_199))
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_limit_is_that_of_the_preview_in_a_raw_file() -> None:
    data = dng(saved(scene(1, (800, 600)), "JPEG"), (800, 600))
    assert decoded(data)[1] == ImageInfo(800, 600, "RAW")
    with pytest.raises(ImageError, match="CAPTIONING_MAX_SIDE"):
        decoded(data, Limits(max_side=799))


# -- messages --


@pytest.mark.parametrize("name", EXTRA)
def test_a_format_that_is_off_is_named_with_what_it_needs(name: str) -> None:
    error = refusal(EXTRA[name][1], formats.BASIC)
    assert error.reason is Reason.UNSUPPORTED
    assert "needs a confined decode process, or CAPTIONING_ALLOW_UNCONFINED_FORMATS=true" in error.detail
    assert "; or " in error.detail


@pytest.mark.parametrize("name", EXTRA)
def test_the_extra_formats_are_known_by_their_content(name: str) -> None:
    kind = identify(EXTRA[name][1])
    assert kind is not None
    assert kind.format == decoded(EXTRA[name][1])[1].format


def test_a_format_without_its_package_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert formats.installed() == ("AVIF", "JPEG2000", "PSD", "TIFF")
    assert refusal(EXTRA["HEIC"][1], formats.BASIC).detail.startswith("HEIC needs pip install 'captionmill[formats]'")
    assert refusal(EXTRA["DNG"][1], formats.BASIC).detail.startswith("DNG (RAW) needs pip install")


def test_the_small_preview_of_a_raw_file_is_not_taken_for_a_tiff() -> None:
    without_raw = tuple(name for name in ALLOWED if name != "RAW")
    assert "DNG (RAW) needs" in refusal(EXTRA["DNG"][1], without_raw).detail


def test_a_tiff_with_small_copies_and_the_name_of_a_camera_is_not_taken_for_raw() -> None:
    tags = ImageFileDirectory_v2()
    tags[271], tags[330] = "NIKON CORPORATION", 8
    tags.tagtype[330] = TiffTags.LONG
    data = saved(PHOTO, "TIFF", tiffinfo=tags)
    kind = identify(data)
    assert kind is not None
    assert kind.name == "Nikon RAW (NEF)"
    assert decoded(data)[1] == ImageInfo(160, 120, "TIFF")


def test_a_photoshop_file_without_a_flat_image_says_how_to_save_it() -> None:
    without = psd(PHOTO, resources=psd_resource(1057, struct.pack(">I", 1) + bytes(9)))
    assert "Maximize Compatibility" in refusal(without).detail
    assert "16 bits" in refusal(psd(PHOTO)[:22] + b"\0\x10" + psd(PHOTO)[24:]).detail


def test_a_raw_file_without_a_preview_says_what_to_submit() -> None:
    error = refusal(dng(b"", (0, 0)))
    assert error.reason is Reason.UNSUPPORTED
    assert "submit the JPEG that the camera wrote beside it" in error.detail


@pytest.mark.parametrize("name", [name for name in EXTRA if "pages" not in name and "XL" not in name])
def test_a_file_that_is_cut_in_the_middle_is_called_truncated(name: str) -> None:
    data = EXTRA[name][1]
    assert refusal(data[: len(data) // 2]).reason is Reason.TRUNCATED
