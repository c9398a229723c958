"""The preview that a camera writes into its RAW files: a JPEG as it looks on the camera.

LibRaw finds it; the samples of the sensor are never decoded.
"""

import io

from PIL import Image

from captioning.errors import ImageError
from captioning.model.image_errors import is_cut
from captioning.model.signatures.kind import COPY, RAW
from captioning.values import Reason

_TAIL = 64  # bytes at the end of a preview
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # EXIF's, by LibRaw's


def preview_of(data: bytes) -> tuple[bytes, int] | None:
    """Return the largest preview as a JPEG or BMP file, and the EXIF orientation of the RAW file, from 1 to 8.

    None for a file that LibRaw does not know. Raises ImageError for one without a preview.
    """
    import rawpy

    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            thumb, orientation = raw.extract_thumb(), _ORIENTATIONS.get(raw.sizes.flip, 1)
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        if is_cut(data):
            raise _cut() from None
        raise ImageError(Reason.UNSUPPORTED, f"a RAW file without a preview that can be read; {RAW}") from None
    except rawpy.LibRawFileUnsupportedError:
        return None
    if isinstance(thumb.data, bytes):  # a JPEG
        if thumb.data[-_TAIL:] not in data:  # LibRaw fills what the file lacks with any bytes
            raise _cut()
        return thumb.data, orientation
    bitmap = io.BytesIO()
    Image.fromarray(thumb.data).save(bitmap, "BMP")
    return bitmap.getvalue(), orientation


def _cut() -> ImageError:
    return ImageError(Reason.TRUNCATED, f"a RAW file that is cut short; {COPY}")
