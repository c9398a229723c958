"""Samples of 1 to 16 bits to 8, and the colour that a PNG names as transparent, at every depth.

Pillow compares the colour key of a PNG with samples that it has scaled already, and keeps the upper half of 16 bits.
"""

import io

import numpy as np
from PIL import Image, PngImagePlugin

from captioning.model.containers import png_chunk

_FULL = 65535
_PLAUSIBLE = (255, 1023, 4095)  # the ends of narrower ranges that cameras and scanners store in 16 bits


def with_alpha(image: Image.Image, data: bytes) -> Image.Image:
    """Resolve palettes, single bits and colour keys, which cannot be averaged over neighbouring pixels.

    16-bit greys are returned as they are: `grey8` handles them and their key.
    """
    if image.mode.startswith("I;16"):
        return image
    depth = data[24] if image.format == "PNG" else 8
    if depth == 16 and image.mode in ("RGB", "RGBA"):
        return _deep_colours(image, data)
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if "transparency" in image.info:
        return _keyed(image, depth)
    return image.convert("RGB") if image.mode == "1" else image


def _keyed(image: Image.Image, depth: int) -> Image.Image:
    """Return a grey or RGB image in which its colour key is transparent."""
    top = (1 << depth) - 1
    key = image.info["transparency"]
    if image.mode == "L":
        image.info["transparency"] = (key & top) * 255 // top  # as Pillow has scaled the samples
    elif image.mode == "RGB":
        image.info["transparency"] = tuple(value & top for value in key)
    return image.convert("RGBA")


def grey8(image: Image.Image, data: bytes) -> Image.Image:
    """Scale 16-bit greys to 8 bits by the range that they use; a colour key becomes white."""
    values = np.array(image, dtype=np.uint16)
    key = image.info.get("transparency")
    shown = values if key is None else values[values != key]
    top = _range(int(shown.max(initial=0)), data)
    scale = (np.arange(_FULL + 1).clip(0, top) * (255.0 / top)).round().astype(np.uint8)
    if key is not None:
        scale[key] = 255
    return Image.fromarray(scale[values])


def _range(highest: int, data: bytes) -> int:
    """Return which of the 16-bit samples is white: the highest one in the bits that the file declares or uses."""
    declared = png_chunk(data, b"sBIT") or b""
    ends = sorted({(1 << bits) - 1 for bits in declared[:3] if 0 < bits < 16}.union(_PLAUSIBLE))
    return next((end for end in ends if 0 < highest <= end), _FULL)


def _deep_colours(image: Image.Image, data: bytes) -> Image.Image:
    """Return 16-bit colours in 8 bits. Pillow has kept their upper halves, which suffice for most."""
    key = image.info.get("transparency")
    highest = max(high for _, high in image.getextrema()[:3]) * 256 + 255  # type: ignore[misc]
    top = _range(highest, data)
    if top == _FULL and key is None:
        return image
    low = _lower_halves(data)
    masks, colours = [], []
    for band in range(3):
        upper = np.asarray(image.getchannel(band))
        values = upper.astype(np.uint16) << 8 | np.asarray(low.getchannel(band))
        masks.append(values == key[band] if key is not None else None)
        scaled = upper if top == _FULL else (values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)
        colours.append(Image.fromarray(scaled))
    if key is not None:
        hidden = masks[0] & masks[1] & masks[2]  # type: ignore[operator]
        return Image.merge("RGBA", (*colours, Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))))
    return Image.merge(image.mode, (*colours, *image.split()[3:]))


def _lower_halves(data: bytes) -> Image.Image:
    """Return the lower bytes of the samples of a 16-bit colour PNG: read in the other byte order, they are kept."""
    with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
        raw = {2: "RGB;16L", 4: "CMYK", 6: "RGBA;16L"}[data[25]]
        if raw == "CMYK":  # no reader keeps the lower bytes of grey and alpha: four bytes a pixel are read as they are
            image._mode = raw
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        image.load()
        grey = image.getchannel(1) if raw == "CMYK" else None
        return Image.merge("RGB", (grey, grey, grey)) if grey is not None else image.copy()
