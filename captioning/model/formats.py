"""The formats of image files: the basic ones, and those that need a package or have a bad history.

Decoders of the extra formats are large and had many vulnerabilities. So a process decodes these only if it is confined
(captioning.decoding.confinement) or a person allows it. Their packages are `captionmill[formats]`.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from PIL import AvifImagePlugin, Image, features

BASIC = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""MPO, several JPEGs in one file, is opened as JPEG."""


class _Codec(NamedTuple):
    """What decodes a format: a feature of Pillow, which may be built without it, or a package of its own."""

    feature: str = ""
    package: str = ""
    load: Callable[[], None] = lambda: None


def _load_avif() -> None:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process for every core


def _load_heif() -> None:
    import pi_heif

    pi_heif.options.DECODE_THREADS = 1
    pi_heif.options.THUMBNAILS = False
    pi_heif.options.DEPTH_IMAGES = False
    pi_heif.register_heif_opener()


def _load_jxl() -> None:
    import pylibjxl

    pylibjxl.register_pillow()


def _load_raw() -> None:
    import rawpy  # noqa: F401


_EXTRA = {  # by Pillow's names, where it has one
    "AVIF": _Codec(feature="avif", load=_load_avif),
    "HEIF": _Codec(package="pi_heif", load=_load_heif),
    "JPEG2000": _Codec(feature="jpg_2000"),
    "JXL": _Codec(package="pylibjxl", load=_load_jxl),
    "PSD": _Codec(),
    "RAW": _Codec(package="rawpy", load=_load_raw),
    "TIFF": _Codec(feature="libtiff"),
}
EXTRA = tuple(_EXTRA)
"""Formats that are decoded only where a process is confined, or where a person allows it."""

ALL = BASIC + EXTRA


def installed() -> tuple[str, ...]:
    """Return the extra formats that this installation can decode."""
    return tuple(name for name, codec in _EXTRA.items() if _is_there(codec))


def _is_there(codec: _Codec) -> bool:
    if codec.package:
        return importlib.util.find_spec(codec.package) is not None
    return not codec.feature or bool(features.check(codec.feature))


@cache
def load(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Import the decoders of some formats, once. Return those that are there."""
    Image.init()
    for name in formats:
        if name in _EXTRA:
            _EXTRA[name].load()
    return tuple(name for name in formats if name in Image.OPEN or name == "RAW")


def needed_for(name: str) -> str:
    """Return what an extra format needs to be decoded."""
    if not _is_there(_EXTRA[name]):
        return "pip install 'captionmill[formats]'" if _EXTRA[name].package else "a Pillow with its decoder"
    return "a confined decode process, or CAPTIONING_ALLOW_UNCONFINED_FORMATS=true (docs/security.md)"
