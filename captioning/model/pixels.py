"""Bytes of an image to the square of pixels that a model sees: the same for training and serving.

Pillow and NumPy only: the process that opens untrusted files never loads torch. Colour, orientation and
transparency come out as a person would see them on a white page.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from captioning.errors import ImageError
from captioning.model.containers import (
    gif_frames,
    jpeg_scans,
    webp_canvas,
    webp_first_frame,
    webp_is_cut,
    without_metadata,
)
from captioning.values import ImageInfo, Reason

VERSION = 1
"""Raised when the same file would give other pixels; a bundle made with another version is refused."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What we let Pillow open; MPO, JPEGs in one file, comes as JPEG. TIFF and EPS have a long history of holes."""

Image.MAX_IMAGE_PIXELS = None  # `Limits` decides, after the cheap reduced-scale decoding is set up

_OURS = (  # formats that we open, so that a damaged one isn't called something else
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP"),
    (b"BM", "BMP"),
)
_SIGNATURES = (  # formats that we know and refuse, so that the person hears which it was
    (b"II*\x00", "TIFF or RAW"),
    (b"MM\x00*", "TIFF or RAW"),
    (b"II+\x00", "BigTIFF"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "EPS"),
    (b"<svg", "SVG"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
)

Pixels = NDArray[np.uint8]
"""(S, S, 3) RGB, 0 to 255."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input. The means and deviations are applied inside the model."""

    size: int = 224  # side of the square, in pixels; the aspect ratio is not kept, as in the training data
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1 (ImageNet)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:  # the encoder halves it five times
            raise ValueError(f"a side of {self.size} pixels is not from 32 to 1024")
        if min(self.std) <= 0:
            raise ValueError("a deviation is more than 0")


@dataclass(frozen=True)
class Limits:
    """What an image may cost before it is refused."""

    max_pixels: int = 128_000_000  # in memory after reduced-scale decoding, which only JPEG has
    max_side: int = 65_535  # width or height
    max_frames: int = 10_000  # of an animation, though only the first is opened


_JPEG_MOST = 8  # times max_pixels in full size: every coded block is read whatever the scale
_JPEG_KEPT_MOST = 2  # the same where all blocks are kept in memory, because passes refine them
_JPEG_PASSES_MOST = 32  # the same for pixels times passes: a dozen are usual, and each goes over all blocks


def open_image(data: bytes, size: int, limits: Limits = Limits()) -> tuple[Pixels, ImageInfo]:
    """Decode an image and return its pixels (size, size, 3) and what is known of it.

    A JPEG is decoded at the smallest of 1/1, 1/2, 1/4, 1/8 scale that still has twice `size` each way, so
    that a 100-megapixel photograph needs a few megabytes. Of an animation the first frame counts.

    Raises ImageError with reason unreadable, truncated, unsupported or too_large.
    """
    try:
        return _open(data, size, limits)
    except ImageError as wrong:
        bare = without_metadata(data)
        if wrong.reason != Reason.UNREADABLE or bare == data:
            raise
        try:
            return _open(bare, size, limits)  # a damaged text or profile is no reason to lose a good image
        except ImageError:
            raise wrong from None


def _open(data: bytes, size: int, limits: Limits) -> tuple[Pixels, ImageInfo]:
    with _reasons(data), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked below; warnings about metadata help nobody
        if (canvas := webp_canvas(data)) is not None:
            _admit_pixels(canvas, canvas, limits.max_pixels)
        first, frames = webp_first_frame(data)
        with Image.open(io.BytesIO(first), formats=FORMATS) as image:
            name = image.format or "?"
            width, height = image.size
            image.draft("RGB", (2 * size, 2 * size))
            _admit(image, (width, height), data, limits)
            frames = gif_frames(data, limits.max_frames) if name == "GIF" else max(frames, _frames_told(image))
            if frames > limits.max_frames:
                raise _too_large(f"{frames} frames or more", str(limits.max_frames), "CAPTIONING_MAX_FRAMES")
            image.load()
            orientation = _orientation(image)
            if orientation in _SIDEWAYS:
                width, height = height, width
            turned = _upright(_shrink(_unpacked(image), size), orientation)
            square = _rgb(turned).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square, dtype=np.uint8), ImageInfo(width, height, "JPEG" if name == "MPO" else name)


def _admit(image: Image.Image, full: tuple[int, int], data: bytes, limits: Limits) -> None:
    """Raise ImageError when an image, its header read, would cost more than the limits allow."""
    _admit_pixels(full, image.size, limits.max_pixels)
    if max(full) > limits.max_side:
        raise _too_large(f"{full[0]}x{full[1]} pixels", f"{limits.max_side} a side", "CAPTIONING_MAX_SIDE")
    if image.format in ("JPEG", "MPO"):
        area = full[0] * full[1]
        passes = jpeg_scans(data, _JPEG_PASSES_MOST * limits.max_pixels // area)
        most = _JPEG_KEPT_MOST if passes > 1 else _JPEG_MOST
        _admit_pixels(full, full, most * limits.max_pixels, f"{most} times ")
        if passes * area > (limit := _JPEG_PASSES_MOST * limits.max_pixels):
            found = f"{passes} passes or more over {full[0]}x{full[1]} pixels"
            raise _too_large(found, f"{limit} in all", f"{_JPEG_PASSES_MOST} times CAPTIONING_MAX_PIXELS")


def _frames_told(image: Image.Image) -> int:
    """Return how many frames a header tells of, 1 where it doesn't."""
    return int(getattr(image, "n_frames", 1))


def _admit_pixels(full: tuple[int, int], held: tuple[int, int], most: int, times: str = "") -> None:
    if held[0] * held[1] > most:
        raise _too_large(f"{full[0]}x{full[1]} pixels", str(most), f"{times}CAPTIONING_MAX_PIXELS")


def _too_large(found: str, limit: str, setting: str) -> ImageError:
    return ImageError(Reason.TOO_LARGE, f"{found}; the limit is {limit} ({setting})")


@contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Turn whatever Pillow throws at a bad file into an ImageError with a reason."""
    if not data:
        raise ImageError(Reason.UNREADABLE, "the file is empty")
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except MemoryError:
        raise ImageError(Reason.TOO_LARGE, "decoding needs more memory than an image may take") from None
    except OSError as damage:
        cut = "truncated" in str(damage).lower() or "unexpected end" in str(damage).lower() or webp_is_cut(data)
        raise ImageError(Reason.TRUNCATED if cut else Reason.UNREADABLE, str(damage)) from None
    except Exception as damage:  # zlib.error, struct.error, IndexError...: a parser's surprises are not ours to list
        raise ImageError(Reason.UNREADABLE, f"damaged: {damage}") from None


def _unidentified(data: bytes) -> ImageError:
    head = data[:32].lstrip()
    if data[4:8] == b"ftyp":
        return ImageError(Reason.UNSUPPORTED, f"{_iso_brand(data)} images are not opened; convert it to JPEG")
    for signature, name in _SIGNATURES:
        if head.startswith(signature) or data.startswith(signature):
            return ImageError(Reason.UNSUPPORTED, f"{name} images are not opened; convert it to JPEG or PNG")
    for signature, name in _OURS:
        if data.startswith(signature):
            return ImageError(Reason.UNREADABLE, f"damaged: it begins like a {name}, but its header makes no sense")
    return ImageError(Reason.UNREADABLE, f"not an image that can be read ({', '.join(FORMATS)})")


def _iso_brand(data: bytes) -> str:
    brand = data[8:12]
    if brand[:2] in (b"he", b"mi", b"ms"):
        return "HEIC"
    return "AVIF" if brand.startswith(b"avi") else "Canon RAW" if brand.startswith(b"crx") else "MPEG-4"


def _unpacked(image: Image.Image) -> Image.Image:
    """Resolve palettes, bits and colour keys: what an average over neighbours would spoil."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return image  # a colour key is one grey of many; Pillow would clip the others to 8 bits for its sake
    if image.mode in ("PA", "RGBa", "La") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _shrink(image: Image.Image, size: int) -> Image.Image:
    """Shrink by a whole factor, box-averaged, before anything else makes copies in full size."""
    factor = min(image.width, image.height) // (2 * size)
    if factor < 2 or image.mode.startswith("I;16"):
        return image
    return image.reduce(factor)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
        return value if isinstance(value, int) else 1
    except Exception:  # damaged metadata is no reason to lose a good image
        return 1


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Undo the camera's orientation, EXIF tag 0x0112, values 1 to 8."""
    turn = _TURNS.get(orientation)
    return image.transpose(turn) if turn is not None else image


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB on white; 16-bit and float greys are scaled, not clipped."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey8(image).convert("RGB")
    if image.mode in ("RGBA", "LA"):
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _grey8(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits by its full range, wider data by its own maximum."""
    values = np.array(image, dtype=np.float64)
    top = 65535.0 if values.max(initial=0) <= 65535 else float(values.max())
    if "transparency" in image.info:  # of the one grey that a PNG's tRNS names
        values[values == image.info["transparency"]] = top
    return Image.fromarray((values.clip(0) * (255.0 / top)).round().astype(np.uint8))
