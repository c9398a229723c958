"""Which way up an image is: the EXIF orientation, also from the odd blocks that some programs write."""

from contextlib import suppress

from PIL import Image

_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


_APPLIED = ("HEIF", "JPEG2000", "JXL", "PSD", "TIFF")  # formats that decoders turn upright, or that have none


def orientation_of(image: Image.Image, default: int = 1) -> int:
    """Return the EXIF orientation of an opened image, from 1 to 8; the default if there is none or it is damaged."""
    if image.format in _APPLIED:
        return 1
    blocks = [content for name, content in getattr(image, "applist", ()) if name == "APP1" and content[:4] == b"Exif"]
    if len(blocks) > 1:  # Pillow joins them, which loses the second when the first is complete or empty
        for block in blocks:
            with suppress(Exception):  # a good image with damaged metadata is not lost
                exif = Image.Exif()
                exif.load(block)
                if found := _number(exif.get(_TAG)):
                    return found
    with suppress(Exception):
        return _number(image.getexif().get(_TAG)) or default
    return default


def _number(value: object) -> int:
    """Return an orientation from 1 to 8 that is stored as any type, 0 for anything else."""
    if isinstance(value, tuple) and value:
        value = value[0]
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        digits = value.strip(b"\0 ")
        value = digits[0] if len(digits) == 1 and digits[0] < 9 else digits.decode("ascii")
    number = int(value)  # type: ignore[call-overload]
    return number if 1 <= number <= 8 else 0


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn the image upright: undo its EXIF orientation."""
    turn = _TURNS.get(orientation)
    return image.transpose(turn) if turn is not None else image
