"""The preview that a camera writes into its RAW files: a JPEG as it looks on the camera.

LibRaw finds it; the samples of the sensor are never decoded.
"""

import io

from PIL import Image

from captioning.errors import ImageError
from captioning.model.signatures.kind import COPY, RAW
from captioning.values import Reason

_ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # EXIF's, by LibRaw's


def preview_of(data: bytes) -> tuple[bytes, int] | None:
    """Return the largest preview as a JPEG or BMP file, and the EXIF orientation of the RAW file, from 1 to 8.

    None for a file that LibRaw does not know. Raises ImageError for one without a preview.
    """
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            thumb, orientation = raw.extract_thumb(), _ORIENTATIONS.get(raw.sizes.flip, 1)
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        raise ImageError(Reason.UNSUPPORTED, f"a RAW file without a preview that can be read; {RAW}") from None
    except rawpy.LibRawFileUnsupportedError:
        return None
    except rawpy.LibRawError as error:
        raise ImageError(Reason.UNREADABLE, f"damaged: {_text(error)}; {COPY}") from None
    if isinstance(thumb.data, bytes):  # a JPEG
        return thumb.data, orientation
    bitmap = io.BytesIO()
    Image.fromarray(thumb.data).save(bitmap, "BMP")
    return bitmap.getvalue(), orientation


def _text(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
