"""What a file is that is not decoded: its name and what to do about it, by its first bytes.

The name of the file plays no part: a HEIC photograph called .jpg is reported as HEIC.
"""

from captioning.model.signatures import coding, containers, magic, text, tiff
from captioning.model.signatures.coding import rare_coding
from captioning.model.signatures.kind import Kind

__all__ = ["Kind", "identify", "rare_coding"]

_FINDERS = (containers.find, tiff.find, coding.rare_coding, magic.find, text.find, magic.find_short)


def identify(data: bytes) -> Kind | None:
    """Return what a file is that no decoder has opened, None if its content says nothing."""
    return next((kind for find in _FINDERS if (kind := find(data)) is not None), None)
