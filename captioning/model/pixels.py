"""Preprocessing: the bytes of an image file to the square of pixels that a model reads, for training and serving.

Pillow and NumPy only: the process that decodes untrusted files never loads torch. Orientation and transparency are as
a viewer shows them on a white page. Colour profiles are ignored.
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
"""Increased whenever the same file gives other pixels. A bundle trained with another version is refused."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The formats that Pillow may open. MPO, several JPEGs in one file, is opened as JPEG. TIFF and EPS are left out: their
codecs have a long history of vulnerabilities."""

Image.MAX_IMAGE_PIXELS = None  # `Limits` applies instead, after reduced-scale decoding is set up

_SUPPORTED_SIGNATURES = (  # a damaged file that begins like this is not called an unknown format
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP"),
    (b"BM", "BMP"),
)
_REFUSED_SIGNATURES = (  # formats that are refused by their name
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
    """How an image becomes the model's input. Mean and standard deviation are applied inside the model."""

    size: int = 224  # side of the square, in pixels; the aspect ratio is not kept, as in the training data
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1 (ImageNet)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:  # the encoder halves it five times
            raise ValueError(f"size must be from 32 to 1024 pixels, not {self.size}")
        if not all(abs(mean) < 1000 for mean in self.mean):
            raise ValueError("each mean must be a small number")
        if not all(0 < std < 1000 for std in self.std):
            raise ValueError("each std must be a small number above 0")


@dataclass(frozen=True)
class Limits:
    """What an image may cost; a more expensive one is refused."""

    max_pixels: int = 128_000_000  # in memory after reduced-scale decoding, which only JPEG has
    max_side: int = 65_535  # width or height
    max_frames: int = 10_000  # of an animation, of which only the first is decoded


# Multiples of max_pixels for a JPEG in full size:
_JPEG_MOST = 8  # every coded block is read, at any scale
_JPEG_PROGRESSIVE_MOST = 2  # all blocks are kept in memory, because later passes refine them
_JPEG_PASSES_MOST = 32  # pixels x passes; a dozen passes are usual, and each reads all blocks


def open_image(data: bytes, size: int, limits: Limits = Limits()) -> tuple[Pixels, ImageInfo]:
    """Decode an image. Return its pixels (size, size, 3) and facts about it.

    A JPEG is decoded at the smallest scale of 1/1, 1/2, 1/4 and 1/8 with sides of at least twice `size`: a photograph
    of 100 megapixels needs a few megabytes. Of an animation, the first frame is decoded.

    Raises ImageError with reason unreadable, truncated, unsupported or too_large.
    """
    try:
        return _open(data, size, limits)
    except ImageError as error:
        bare = without_metadata(data)
        if error.reason != Reason.UNREADABLE or bare == data:
            raise
        try:
            return _open(bare, size, limits)  # a good image with a damaged text or profile is not lost
        except ImageError:
            raise error from None


def _open(data: bytes, size: int, limits: Limits) -> tuple[Pixels, ImageInfo]:
    with _image_errors(data), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked below; warnings about metadata are of no use
        if (canvas := webp_canvas(data)) is not None:
            _admit_pixels(canvas, canvas, limits.max_pixels)
        first, frames = webp_first_frame(data)
        with Image.open(io.BytesIO(first), formats=FORMATS) as image:
            name = image.format or "?"
            width, height = image.size
            image.draft("RGB", (2 * size, 2 * size))
            _admit(image, (width, height), data, limits)
            frames = gif_frames(data, limits.max_frames) if name == "GIF" else max(frames, _declared_frames(image))
            if frames > limits.max_frames:
                raise _too_large(f"{frames} frames or more", str(limits.max_frames), "CAPTIONING_MAX_FRAMES")
            image.load()
            orientation = _orientation(image)
            if orientation in _SIDEWAYS:
                width, height = height, width
            upright = _upright(_shrink(_without_palette(image), size), orientation)
            square = _rgb(upright).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square, dtype=np.uint8), ImageInfo(width, height, "JPEG" if name == "MPO" else name)


def _admit(image: Image.Image, full: tuple[int, int], data: bytes, limits: Limits) -> None:
    """Raise ImageError when an image, of which only the header is read, would cost more than the limits allow."""
    _admit_pixels(full, image.size, limits.max_pixels)
    if max(full) > limits.max_side:
        raise _too_large(f"{full[0]}x{full[1]} pixels", f"{limits.max_side} per side", "CAPTIONING_MAX_SIDE")
    if image.format in ("JPEG", "MPO"):
        area = full[0] * full[1]
        passes = jpeg_scans(data, _JPEG_PASSES_MOST * limits.max_pixels // area)
        most = _JPEG_PROGRESSIVE_MOST if passes > 1 else _JPEG_MOST
        _admit_pixels(full, full, most * limits.max_pixels, f"{most} times ")
        if passes * area > (limit := _JPEG_PASSES_MOST * limits.max_pixels):
            found = f"{passes} passes or more over {full[0]}x{full[1]} pixels"
            raise _too_large(found, f"{limit} in total", f"{_JPEG_PASSES_MOST} times CAPTIONING_MAX_PIXELS")


def _declared_frames(image: Image.Image) -> int:
    """Return the number of frames that the header declares, 1 if it declares none."""
    return int(getattr(image, "n_frames", 1))


def _admit_pixels(full: tuple[int, int], held: tuple[int, int], most: int, times: str = "") -> None:
    if held[0] * held[1] > most:
        raise _too_large(f"{full[0]}x{full[1]} pixels", str(most), f"{times}CAPTIONING_MAX_PIXELS")


def _too_large(found: str, limit: str, setting: str) -> ImageError:
    return ImageError(Reason.TOO_LARGE, f"{found}; the limit is {limit} ({setting})")


@contextmanager
def _image_errors(data: bytes) -> Iterator[None]:
    """Turn every exception that Pillow raises for a bad file into an ImageError with a reason."""
    if not data:
        raise ImageError(Reason.UNREADABLE, "the file is empty")
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except MemoryError:
        raise ImageError(Reason.TOO_LARGE, "decoding needs more memory than one image may use") from None
    except OSError as error:
        cut = "truncated" in str(error).lower() or "unexpected end" in str(error).lower() or webp_is_cut(data)
        raise ImageError(Reason.TRUNCATED if cut else Reason.UNREADABLE, str(error)) from None
    except Exception as error:  # zlib.error, struct.error, IndexError and more: no list of them would be complete
        raise ImageError(Reason.UNREADABLE, f"damaged: {error}") from None


def _unidentified(data: bytes) -> ImageError:
    head = data[:32].lstrip()
    if data[4:8] == b"ftyp":
        return ImageError(Reason.UNSUPPORTED, f"{_iso_brand(data)} images are not supported; convert the file to JPEG")
    for signature, name in _REFUSED_SIGNATURES:
        if head.startswith(signature) or data.startswith(signature):
            return ImageError(Reason.UNSUPPORTED, f"{name} images are not supported; convert the file to JPEG or PNG")
    for signature, name in _SUPPORTED_SIGNATURES:
        if data.startswith(signature):
            return ImageError(Reason.UNREADABLE, f"damaged: it begins like a {name}, but its header is invalid")
    return ImageError(Reason.UNREADABLE, f"not an image in a supported format ({', '.join(FORMATS)})")


def _iso_brand(data: bytes) -> str:
    brand = data[8:12]
    if brand[:2] in (b"he", b"mi", b"ms"):
        return "HEIC"
    return "AVIF" if brand.startswith(b"avi") else "Canon RAW" if brand.startswith(b"crx") else "MPEG-4"


def _without_palette(image: Image.Image) -> Image.Image:
    """Resolve palettes, single bits and colour keys, which cannot be averaged over neighbouring pixels."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return image  # `_grey8` handles the colour key; Pillow would clip all values to 8 bits
    if image.mode in ("PA", "RGBa", "La") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _shrink(image: Image.Image, size: int) -> Image.Image:
    """Shrink by a whole factor, by averaging, so that later steps make no copies in full size."""
    factor = min(image.width, image.height) // (2 * size)
    if factor < 2 or image.mode.startswith("I;16"):
        return image
    return image.reduce(factor)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
        return value if isinstance(value, int) else 1
    except Exception:  # a good image with damaged metadata is not lost
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
    """Turn the image upright: undo the EXIF orientation, tag 0x0112, values 1 to 8."""
    turn = _TURNS.get(orientation)
    return image.transpose(turn) if turn is not None else image


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB on white; 16-bit and float grey values are scaled, not clipped."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey8(image).convert("RGB")
    if image.mode in ("RGBA", "LA"):
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _grey8(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits by its full range, and wider data by its own maximum."""
    values = np.array(image, dtype=np.float64)
    top = 65535.0 if values.max(initial=0) <= 65535 else float(values.max())
    if "transparency" in image.info:  # the grey that a PNG's tRNS chunk makes transparent
        values[values == image.info["transparency"]] = top
    return Image.fromarray((values.clip(0) * (255.0 / top)).round().astype(np.uint8))
