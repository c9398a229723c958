"""What a file is recognised as: the reason why it has no caption, its name, and one remedy."""

from typing import NamedTuple

from captioning.values import Reason

CONVERT = "convert the file to JPEG or PNG"
HEIC = "convert the file to JPEG"
RAW = "export the photograph as JPEG with the camera's program, or submit the JPEG that the camera wrote beside it"
EXPORT = "export the picture as JPEG or PNG"
SAVE = "open the picture in an image editor and save it as an ordinary JPEG or PNG"
DRAWING = "save the drawing as PNG"
FRAME = "save a frame of it as JPEG"
PAGE = "save its pages or figures as PNG"
UNPACK = "unpack it and submit the folder"
NOTHING = "submit images only"
COPY = "copy or fetch the file again"
AGAIN = "fetch the image itself again"


class Kind(NamedTuple):
    """What a file is recognised as."""

    reason: Reason
    message: str
    name: str = ""  # of an image's format, for people
    remedy: str = ""
    format: str = ""  # of an image that some installations decode, as captioning.model.formats names it


def image(name: str, remedy: str = CONVERT, *, decoded_as: str = "") -> Kind:
    """Return the kind of an image in a format that is not decoded, or not by every installation."""
    decoded_as = "RAW" if remedy == RAW else decoded_as
    return Kind(Reason.UNSUPPORTED, f"{name} images are not supported; {remedy}", name, remedy, decoded_as)


def other(name: str, remedy: str) -> Kind:
    """Return the kind of a file that is complete, but no image."""
    return Kind(Reason.UNSUPPORTED, f"{name}, not an image; {remedy}")


def instead(name: str, remedy: str = AGAIN) -> Kind:
    """Return the kind of a file that is in the place of an image, by mistake."""
    return Kind(Reason.UNREADABLE, f"{name}, not an image; {remedy}")


def damaged(name: str, cause: str = "its header is invalid") -> Kind:
    """Return the kind of an image in a decoded format that cannot be opened."""
    return Kind(Reason.UNREADABLE, f"a damaged {name}, {cause}; {COPY}")
