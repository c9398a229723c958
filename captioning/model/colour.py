"""Colours as they are meant: from an image's colour profile, or what a file says instead of one, to sRGB.

lcms (PIL.ImageCms) does the arithmetic. A profile that is damaged, does not fit the image or makes one shade of
everything is not applied: the image is then taken as sRGB, like an image without a profile.
"""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageCms

from captioning.model.boxes import heif_colours, jpeg2000_profile
from captioning.model.containers import bmp_profile, gif_profile, jpeg_profile, png_chunk

MAX_PROFILE = 8_000_000  # bytes; profiles of presses have two million
_CACHED = 8  # transforms; a CMYK one takes 50 ms to build and up to 10 MB
_SAME = 2  # levels of 255 by which a profile may differ from sRGB and still be called sRGB
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # Pillow's modes by the colour spaces of ICC profiles
_CLASSES = ("mntr", "scnr", "prtr", "spac")  # not those that link two devices or name single colours


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the image in sRGB: the same object if it is in sRGB already or its profile cannot be used."""
    if not profile:
        return image
    transform = _transform(profile)
    if transform is None:
        return image
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = image.convert(image.mode[:-1]) if alpha is not None else image
    if colours.mode == "L" and transform.mode == "RGB":
        colours = colours.convert("RGB")
    elif colours.mode == "RGB" and transform.mode == "L" and _is_grey(colours):  # as frames and deep samples are read
        colours = colours.getchannel(0)
    if colours.mode != transform.mode:
        return image
    converted = transform.apply(colours)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))


class _Transform(NamedTuple):
    mode: str  # of the images that it takes: RGB, L or CMYK
    apply: Callable[[Image.Image], Image.Image]


@lru_cache(maxsize=_CACHED)
def _transform(profile: bytes) -> _Transform | None:
    """Return how to get from a profile to sRGB, None for sRGB itself and for a profile that cannot be used."""
    if len(profile) > MAX_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space, "")
        if not mode or source.profile.device_class not in _CLASSES:
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
        probe = _probe(mode)
        seen = np.asarray(transform.apply(probe), dtype=int)
    except Exception:  # lcms and Pillow raise many kinds for damaged profiles, and none of them loses the image
        return None
    if np.ptp(seen.mean(axis=-1)) < 128:
        return None  # black or grey whatever the image shows
    if mode != "CMYK" and np.abs(seen - np.asarray(probe.convert("RGB"), dtype=int)).max() <= _SAME:
        return None
    return _Transform(mode, transform.apply)


def _probe(mode: str) -> Image.Image:
    """Return an image with colours from all over the space: 17 levels of each channel, 256 of grey."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 17 if mode == "RGB" else 5).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * len(mode)), axis=-1).reshape(1, -1, len(mode))
    return Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())


def profile_of(image: Image.Image, data: bytes) -> bytes | None:
    """Return the ICC profile of an opened image: its own, or one made from what it says about its colours."""
    embedded = image.info.get("icc_profile")
    if image.format in ("JPEG", "MPO"):
        return embedded or jpeg_profile(data) or _camera_profile(image)
    if image.format in _PROFILES:
        return _PROFILES[image.format](data)
    if image.format == "PNG":
        return _png_profile(image, embedded, data)
    coded = heif_colours(data) if image.format in ("HEIF", "AVIF") and not embedded else None
    return _coded(coded) if coded else embedded or None


def _png_profile(image: Image.Image, embedded: bytes | None, data: bytes) -> bytes | None:
    if (coding := png_chunk(data, b"cICP")) is not None and (profile := _coded(coding)) is not None:
        return profile  # it takes precedence over a profile
    if embedded or "srgb" in image.info:
        return embedded or None
    return _measured(image.info.get("gamma"), image.info.get("chromaticity"))


_PROFILES = {"BMP": bmp_profile, "GIF": gif_profile, "JPEG2000": jpeg2000_profile}  # Pillow reads none of them


def _camera_profile(image: Image.Image) -> bytes | None:
    """Return Adobe RGB if the Exif data names it; cameras embed no profile then."""
    if b"R03\0" not in image.info.get("exif", b""):
        return None
    with suppress(Exception):  # a good image with damaged metadata is not lost
        exif = image.getexif()
        is_srgb = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace) == 1
        if not is_srgb and exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex) == "R03":
            return _profile(_ADOBE_RGB, _D65, _power(563 / 256))
    return None


# -- profiles of RGB spaces --

_D65 = (0.3127, 0.3290)
_REC709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_PRIMARIES = {  # xy of red, green and blue, and of white, by the numbers of ITU-T H.273
    1: (_REC709, _D65),
    4: (((0.67, 0.33), (0.21, 0.71), (0.14, 0.08)), (0.310, 0.316)),
    5: (((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)), _D65),
    6: (((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), _D65),
    7: (((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), _D65),
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), _D65),
    11: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (0.314, 0.351)),
    12: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), _D65),
}
_WHITE_NITS = 203.0  # of paper white in HDR (ITU-R BT.2408); brighter light is shown as white


def _coded(cicp: bytes) -> bytes | None:
    """Return a profile for the content of a cICP chunk, None for a coding that is not full-range RGB or not known."""
    if len(cicp) < 4 or cicp[2] != 0 or cicp[3] != 1 or cicp[0] not in _PRIMARIES:
        return None
    curve = _coded_curve(cicp[1])
    return _profile(*_PRIMARIES[cicp[0]], curve) if curve is not None else None


def _coded_curve(number: int) -> bytes | None:
    """Return the curve from values to light of a transfer characteristic of ITU-T H.273."""
    if number in (1, 6, 13, 14, 15):  # the curve of cameras for video is shown like sRGB
        return _SRGB_CURVE
    if number in (4, 5, 8, 17):
        return _power({4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}[number])
    if number == 16:
        return _table(_pq_nits)
    return _table(_hlg_nits) if number == 18 else None


def _pq_nits(values: np.ndarray) -> np.ndarray:
    """Return the light of values from 0 to 1 in SMPTE ST 2084."""
    power = values ** (1 / 78.84375)
    return np.asarray(
        10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578)
    )


def _hlg_nits(values: np.ndarray) -> np.ndarray:
    """Return the light of values from 0 to 1 in hybrid log-gamma, on a screen of 1000 nits."""
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return np.asarray(1000 * scene**1.2)


def _measured(gamma: float | None, chromaticity: tuple[float, ...] | None) -> bytes | None:
    """Return a profile for a PNG's gAMA and cHRM chunks, None if there are none or their values make no sense."""
    if gamma is None and chromaticity is None:
        return None
    white, *primaries = [_D65, *_REC709]
    if chromaticity is not None:
        white, *primaries = zip(chromaticity[::2], chromaticity[1::2], strict=True)
    curve = _SRGB_CURVE
    if gamma is not None:
        if not 0.1 <= gamma <= 4:
            return None
        if abs(gamma - 1 / 2.2) > 0.02:  # that is what writers of sRGB write
            curve = _power(1 / gamma)
    return _profile(tuple(primaries), white, curve)


def _fixed(*values: float) -> bytes:
    """Return numbers as ICC's s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _power(exponent: float) -> bytes:
    return b"para\0\0\0\0\0\0\0\0" + _fixed(exponent)


def _table(nits: Callable[[np.ndarray], np.ndarray]) -> bytes:
    light = (nits(np.linspace(0, 1, 1024)) / _WHITE_NITS).clip(0, 1)
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + (light * 65535).round().astype(">u2").tobytes()


_SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_D50 = (0.9642, 1.0, 0.8249)  # the white of all profiles
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Point = tuple[float, float]
"""x and y of a colour."""


@lru_cache(maxsize=_CACHED)
def _profile(primaries: tuple[Point, ...], white: Point, curve: bytes) -> bytes | None:
    """Return an ICC profile of three primaries, a white and one curve, None if the points span no space."""
    try:
        corners = np.array([_xyz(point) for point in primaries]).T
        mixed = corners * np.linalg.solve(corners, _xyz(white))
        white_cone = 1 / (_BRADFORD @ _xyz(white))
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 * white_cone) @ _BRADFORD
    columns = (adapt @ mixed).T
    if not np.isfinite(columns).all() or np.abs(columns).max() > 4:
        return None
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50)}
    for name, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(*column), name + b"TRC": curve}
    return _icc(tags)


def _xyz(point: Point) -> np.ndarray:
    x, y = point
    return np.array((x / y, 1, (1 - x - y) / y))


def _icc(tags: dict[bytes, bytes]) -> bytes:
    """Return an ICC file (version 4, RGB, of a display) with these tags."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = (
        struct.pack(">I4xI", start + len(body), 0x04200000) + b"mntrRGB XYZ " + struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    )
    return head + b"acsp" + bytes(28) + _fixed(*_D50) + bytes(48) + struct.pack(">I", len(tags)) + table + body
