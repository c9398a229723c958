"""What this installation can decode, with the limits of the settings."""

from captioning.decoding.confinement import Confinement, available
from captioning.model import formats
from captioning.model.pixels import Limits
from captioning.settings import Settings
from captioning.values import PREPROCESSING_VERSION, DecodeCapability


def limits_of(settings: Settings) -> Limits:
    """Return the limits on one image that the settings give."""
    return Limits(settings.max_pixels, settings.max_side, settings.max_frames)


def decoded_formats(confinement: Confinement, *, allow_unconfined: bool) -> tuple[str, ...]:
    """Return which formats a process decodes that is confined like this."""
    extra = formats.installed() if confinement.is_complete or allow_unconfined else ()
    return formats.BASIC + extra


def capability_of(settings: Settings) -> DecodeCapability:
    """Return which image files a worker with these settings can decode in this installation."""
    limits = limits_of(settings)
    return DecodeCapability(
        formats=tuple(sorted(decoded_formats(available(), allow_unconfined=settings.allow_unconfined_formats))),
        version=PREPROCESSING_VERSION,
        max_bytes=settings.max_bytes,
        max_pixels=limits.max_pixels,
        max_side=limits.max_side,
        max_frames=limits.max_frames,
    )
