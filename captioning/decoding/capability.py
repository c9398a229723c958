"""What this installation can decode, with the limits of the settings."""

from contextlib import closing

from PIL import Image

from captioning.decoding.pool import DecodePool
from captioning.model.pixels import FORMATS, Limits
from captioning.settings import Settings
from captioning.values import PREPROCESSING_VERSION, DecodeCapability

_ANY_SIZE = 224  # of the squares, in pixels


def limits_of(settings: Settings) -> Limits:
    """Return the limits on one image that the settings give."""
    return Limits(settings.max_pixels, settings.max_side, settings.max_frames)


def describe_decoding(settings: Settings) -> str:
    """Start a decode process and return in one line how it is confined. Raises DecodePoolUnavailable."""
    with closing(DecodePool(1, _ANY_SIZE, limits_of(settings), settings.decode_timeout_seconds)) as pool:
        return str(pool.confinement())


def capability_of(settings: Settings) -> DecodeCapability:
    """Return which image files a worker with these settings can decode in this installation."""
    Image.init()  # registers the formats that this build of Pillow can open
    limits = limits_of(settings)
    return DecodeCapability(
        formats=tuple(sorted(name for name in FORMATS if name in Image.OPEN)),
        version=PREPROCESSING_VERSION,
        max_bytes=settings.max_bytes,
        max_pixels=limits.max_pixels,
        max_side=limits.max_side,
        max_frames=limits.max_frames,
    )
