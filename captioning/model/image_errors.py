"""Everything that goes wrong while an image is decoded, as an ImageError with a reason and a remedy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from captioning.errors import ImageError
from captioning.model import boxes, containers, formats
from captioning.model.signatures import Kind, identify, rare_coding, tiff
from captioning.model.signatures.kind import COPY, RAW, SAVE, damaged
from captioning.values import Reason


def too_large(found: str, limit: str, setting: str) -> ImageError:
    """Return the error for an image that costs more than a limit."""
    return ImageError(Reason.TOO_LARGE, f"{found}; the limit is {limit} ({setting})")


@contextmanager
def image_errors(data: bytes, allowed: Sequence[str]) -> Iterator[None]:
    """Turn every exception that a decoder raises for a bad file into an ImageError with a reason.

    `allowed`: the formats that may be decoded.
    """
    if not data:
        raise ImageError(Reason.UNREADABLE, f"the file is empty; {COPY}")
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise unidentified(data, allowed) from None
    except MemoryError:
        raise ImageError(
            Reason.TOO_LARGE, "decoding needs more memory than one image may use; save it smaller"
        ) from None
    except OSError as error:
        cut = "truncated" in str(error).lower() or "unexpected end" in str(error).lower() or is_cut(data)
        if not cut and (kind := rare_coding(data)) is not None:  # not every decoder knows it
            raise ImageError(kind.reason, kind.message) from None
        raise _damaged(error, cut=cut) from None
    except Exception as error:  # zlib.error, struct.error, IndexError and more: no list of them would be complete
        raise _damaged(error, cut=is_cut(data)) from None


def _damaged(error: Exception, *, cut: bool) -> ImageError:
    reason, finding = (Reason.TRUNCATED, "cut short") if cut else (Reason.UNREADABLE, "damaged")
    return ImageError(reason, f"{finding}: {str(error).strip()}; {COPY}")


def is_cut(data: bytes) -> bool:
    """Return whether a file is shorter than its own header says, in the formats that say it."""
    return containers.webp_is_cut(data) or boxes.is_cut(data) or tiff.is_cut(data)


def unidentified(data: bytes, allowed: Sequence[str]) -> ImageError:
    """Return the error for a file that no allowed decoder takes: what it is, and what to do."""
    kind = identify(data)
    if kind is None:
        found = f"not an image in a supported format ({', '.join(allowed)})"
        return ImageError(Reason.UNREADABLE, f"{found}; if it is a RAW photograph, export it as JPEG")
    if kind.format in allowed:
        return _not_taken(kind, data)
    if kind.format in formats.EXTRA:
        return ImageError(kind.reason, f"{kind.name} needs {formats.needed_for(kind.format)}; or {kind.remedy}")
    return ImageError(kind.reason, kind.message)


def _not_taken(kind: Kind, data: bytes) -> ImageError:
    """Return the error for a file that the decoder of its format does not take."""
    if is_cut(data):
        return ImageError(Reason.TRUNCATED, f"{kind.name}, cut short; {COPY}")
    if kind.format == "RAW":
        return ImageError(Reason.UNSUPPORTED, f"a {kind.name} file of a camera that LibRaw does not know; {RAW}")
    if kind.name == "TIFF":  # its directory can be read
        return ImageError(Reason.UNSUPPORTED, f"a TIFF image in a rare coding; {SAVE}")
    return ImageError(*damaged(kind.name)[:2])
