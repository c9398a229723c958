"""Preprocessing: the bytes of an image file to the square of pixels that a model reads, for training and serving.

Pillow and NumPy only: the process that decodes untrusted files never loads torch. Orientation, transparency, colours
and the frame of an animation are as a viewer shows them on a white page.
"""

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from captioning.errors import ImageError
from captioning.model.animation import ANIMATED, covers_canvas, shown_frames
from captioning.model.boxes import heif_size
from captioning.model.colour import MAX_PROFILE, profile_of, to_srgb
from captioning.model.containers import (
    gif_frames,
    jpeg_scans,
    webp_canvas,
    webp_first_frame,
    without_metadata,
    without_texts,
)
from captioning.model.depth import grey8, with_alpha
from captioning.model.formats import BASIC, load
from captioning.model.image_errors import image_errors, too_large, unidentified
from captioning.model.orientation import SIDEWAYS, orientation_of, upright
from captioning.model.photoshop import as_shown
from captioning.model.rare_modes import in_usual_mode
from captioning.model.raw import preview_of
from captioning.model.signatures import identify
from captioning.values import PREPROCESSING_VERSION, ImageInfo, Reason

Image.MAX_IMAGE_PIXELS = None  # `Limits` applies instead, after reduced-scale decoding is set up
PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE  # Pillow's limit on texts is one on profiles too, and refuses the image

_PAGES = ("HEIF", "PSD", "TIFF")  # formats of several images, of which only the first or primary one is read
_NEVER_RAW = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM")  # the basic formats, which need no closer look
_SOUGHT = 100  # frames of an animation among which the first that shows something is sought
_ONE_COLOUR = 12  # levels of 255 between the colours of a frame that is called blank; lossy codecs add noise

Pixels = NDArray[np.uint8]
"""(S, S, 3) RGB, 0 to 255; (H, W, 3) where the aspect ratio is kept."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input. Mean and standard deviation are applied inside the model."""

    size: int = 224  # side of the square, in pixels; the aspect ratio is not kept, as in the training data
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1 (ImageNet)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    version: int = PREPROCESSING_VERSION

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


@dataclass(frozen=True)
class _Wanted:
    """How an image is decoded; see `open_image`."""

    size: int
    limits: Limits
    allowed: tuple[str, ...]
    keep_aspect: bool


def open_image(
    data: bytes,
    size: int,
    limits: Limits = Limits(),
    allowed: tuple[str, ...] = BASIC,
    *,
    keep_aspect: bool = False,
) -> tuple[Pixels, ImageInfo]:
    """Decode an image in one of the allowed formats. Return its pixels (size, size, 3) and facts about it.

    With `keep_aspect`, which is for people, the longer side has `size` pixels, or fewer if the image is smaller.

    A JPEG is decoded at the smallest scale of 1/1, 1/2, 1/4 and 1/8 with sides of at least twice `size`: a photograph
    of 100 megapixels needs a few megabytes. Of an animation, the first frame that shows something is decoded, of a TIFF
    the first page, of a RAW file the preview that the camera made.

    Raises ImageError with reason unreadable, truncated, unsupported or too_large.
    """
    wanted = _Wanted(size, limits, allowed, keep_aspect)
    try:
        return _open_raw(data, wanted) or _open(data, wanted)
    except ImageError as error:
        if error.reason != Reason.UNREADABLE:
            raise
        for bare in (without_texts(data), without_metadata(data)):  # what is damaged beside an image does not lose it
            if bare != data:
                with suppress(ImageError):
                    return _open(bare, wanted)
        raise


def _open_raw(data: bytes, wanted: _Wanted) -> tuple[Pixels, ImageInfo] | None:
    """Decode the preview of a RAW file; None for other files, and for a RAW file that LibRaw does not know."""
    if data.startswith(_NEVER_RAW) or (kind := identify(data)) is None or kind.format != "RAW":
        return None
    if "RAW" not in load(wanted.allowed):
        raise unidentified(data, wanted.allowed)
    with image_errors(data, wanted.allowed):
        if (preview := preview_of(data)) is None:
            return None
    pixels, info = _open(preview[0], replace(wanted, allowed=("JPEG", "BMP")), preview[1])
    return pixels, replace(info, format="RAW")


def _open(data: bytes, wanted: _Wanted, orientation: int = 1) -> tuple[Pixels, ImageInfo]:
    """Decode an image. `orientation` is that of a file that says nothing about it."""
    size, limits = wanted.size, wanted.limits
    with image_errors(data, wanted.allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked below; warnings about metadata are of no use
        for declared in (webp_canvas(data), heif_size(data)):  # which their decoders allocate
            if declared is not None:
                _admit_pixels(declared, declared, limits.max_pixels)
        first, frames = webp_first_frame(data)
        with Image.open(io.BytesIO(first), formats=[name for name in load(wanted.allowed) if name != "RAW"]) as image:
            name = image.format or "?"
            width, height = image.size
            image.draft("RGB", (2 * size, 2 * size))
            _admit(image, (width, height), data, limits)
            frames = gif_frames(data, limits.max_frames) if name == "GIF" else max(frames, _declared_frames(image))
            if frames > limits.max_frames:
                raise too_large(f"{frames} frames or more", str(limits.max_frames), "CAPTIONING_MAX_FRAMES")
            image.load()
            finish = _Finish(size, orientation_of(image, orientation), profile_of(image, data), wanted.keep_aspect)
            if finish.orientation in SIDEWAYS:
                width, height = height, width
            stand_in = name == "PNG" and bool(image.info.get("default_image"))
            composed = stand_in or (name == "GIF" and not covers_canvas(data, image.size))
            square = None if composed else finish.square(image, first)
            if name in ANIMATED and (square is None or (frames > 1 and _is_blank(square))):
                square = _first_that_shows(data, image, finish, limits) or square
            square = square or finish.square(image, first)
    return np.asarray(square, dtype=np.uint8), ImageInfo(width, height, "JPEG" if name == "MPO" else name)


@dataclass(frozen=True)
class _Finish:
    """What happens to the pixels of a decoded image or frame."""

    size: int
    orientation: int
    profile: bytes | None
    keep_aspect: bool

    def square(self, image: Image.Image, data: bytes) -> Image.Image:
        """Return the square in RGB, or what fits into it. `data` is the still image that the pixels come from."""
        shrunk = in_usual_mode(_shrink(with_alpha(_opaque_bmp(as_shown(image, data)), data), self.size))
        shallow = grey8(shrunk, data) if shrunk.mode.startswith("I;16") else shrunk
        page = _on_white(to_srgb(upright(shallow, self.orientation), self.profile))
        if self.keep_aspect:
            page.thumbnail((self.size, self.size), Image.Resampling.BICUBIC)
            return page
        return page.resize((self.size, self.size), Image.Resampling.BILINEAR)


def _first_that_shows(data: bytes, image: Image.Image, finish: _Finish, limits: Limits) -> Image.Image | None:
    """Return the square of the first frame of an animation that is not blank, of the first if all are.

    Frames are sought up to `_SOUGHT` of them and `max_pixels` in all, and up to the first that is damaged. None if
    that is the first already.
    """
    most = min(_SOUGHT, limits.max_pixels // (image.width * image.height))
    canvas = image.size

    def decode(still: bytes) -> Image.Image:
        with Image.open(io.BytesIO(still), formats=(form,)) as frame:
            _admit_pixels(frame.size, frame.size, limits.max_pixels)
            frame.load()
            layer = with_alpha(frame, still)
            return grey8(layer, still) if layer.mode.startswith("I;16") else layer

    form = str(image.format)
    first = None
    with suppress(Exception):  # of any kind that a damaged frame raises; the frames before it are good
        for shown in islice(shown_frames(data, form, canvas, decode), max(most, 1)):
            square = finish.square(shown, b"")
            if not _is_blank(square):
                return square
            first = first or square
    return first


def _is_blank(square: Image.Image) -> bool:
    """Return whether an image is of one colour, as far as anybody sees."""
    return all(high - low <= _ONE_COLOUR for low, high in square.getextrema())  # type: ignore[misc]


def _admit(image: Image.Image, full: tuple[int, int], data: bytes, limits: Limits) -> None:
    """Raise ImageError when an image, of which only the header is read, would cost more than the limits allow."""
    _admit_pixels(full, image.size, limits.max_pixels)
    if max(full) > limits.max_side:
        raise too_large(f"{full[0]}x{full[1]} pixels", f"{limits.max_side} per side", "CAPTIONING_MAX_SIDE")
    if image.format in ("JPEG", "MPO"):
        area = full[0] * full[1]
        passes = jpeg_scans(data, _JPEG_PASSES_MOST * limits.max_pixels // area)
        most = _JPEG_PROGRESSIVE_MOST if passes > 1 else _JPEG_MOST
        _admit_pixels(full, full, most * limits.max_pixels, f"{most} times ")
        if passes * area > (limit := _JPEG_PASSES_MOST * limits.max_pixels):
            found = f"{passes} passes or more over {full[0]}x{full[1]} pixels"
            raise too_large(found, f"{limit} in total", f"{_JPEG_PASSES_MOST} times CAPTIONING_MAX_PIXELS")


def _declared_frames(image: Image.Image) -> int:
    """Return the number of frames that the header declares, 1 if it declares none and for pages and layers."""
    if image.format in _PAGES:
        return 1
    return int(getattr(image, "n_frames", 1))


def _admit_pixels(full: tuple[int, int], held: tuple[int, int], most: int, times: str = "") -> None:
    if held[0] * held[1] > most:
        raise too_large(f"{full[0]}x{full[1]} pixels", str(most), f"{times}CAPTIONING_MAX_PIXELS")


def _opaque_bmp(image: Image.Image) -> Image.Image:
    """Return a BMP without its alpha if that is 0 everywhere: its writer left it empty, and viewers ignore it."""
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image


def _shrink(image: Image.Image, size: int) -> Image.Image:
    """Shrink by a whole factor, by averaging, so that later steps make no copies in full size."""
    factor = min(image.width, image.height) // (2 * size)
    if factor < 2 or image.mode.startswith("I;16"):
        return image
    return image.reduce(factor)


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image as RGB on a white page."""
    if image.mode in ("RGBA", "LA", "RGBa", "La"):
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")
