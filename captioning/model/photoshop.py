"""Photoshop files: whether they contain the flat image that Pillow reads, and what their fourth channel is."""

import struct

from PIL import Image, PsdImagePlugin

from captioning.errors import ImageError
from captioning.values import Reason

_VERSION_INFO = 1057  # the image resource that says whether the flat image was saved


def as_shown(image: Image.Image, data: bytes) -> Image.Image:
    """Return the flat image of an opened file, without a channel that holds a selection instead of transparency.

    Raises ImageError if the file was saved without a flat image.
    """
    if not isinstance(image, PsdImagePlugin.PsdImageFile):
        return image
    for number, _, content in image.resources:
        if number == _VERSION_INFO and content[4:5] == b"\0":
            missing = "a Photoshop file without the flat image; save it with `Maximize Compatibility`, or as JPEG"
            raise ImageError(Reason.UNSUPPORTED, missing)
    return image if image.mode != "RGBA" or _is_transparent(image, data) else image.convert("RGB")


def _is_transparent(image: PsdImagePlugin.PsdImageFile, data: bytes) -> bool:
    """Return whether the fourth channel is transparency: then the number of layers is negative."""
    at = image._layers_position
    return at is not None and struct.unpack(">h", data[at : at + 2].ljust(2, b"\0"))[0] < 0
