"""Files of a format that is decoded, in a coding so rare that the decoder does not know it."""

from captioning.model.containers import jpeg_segments
from captioning.model.signatures.kind import EXPORT, SAVE, Kind, image

_JPEGS = {  # by the marker of the frame header: in medicine, for scans and proofs
    **dict.fromkeys((0xC3, 0xC7), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6), "hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic-coded JPEG"),
    0xF7: "JPEG-LS",
}
_BMPS = {  # by the number of their compression
    3: "BMP (with unusual bit masks)",
    4: "BMP (with a JPEG inside)",
    5: "BMP (with a PNG inside)",
    6: "BMP (with an alpha mask)",
}


def rare_coding(data: bytes) -> Kind | None:
    """Return what a JPEG, BMP or PSD in a coding that not every decoder knows is; None for all other files."""
    return _rare_jpeg(data) or _rare_bmp(data) or _rare_psd(data)


def _rare_jpeg(data: bytes) -> Kind | None:
    for marker, segment in jpeg_segments(data) if data.startswith(b"\xff\xd8") else ():
        if marker in _JPEGS:
            return image(_JPEGS[marker], SAVE)
        if marker in (0xC0, 0xC1, 0xC2):
            return image("12-bit JPEG", SAVE) if segment[4:5] == b"\x0c" else None
    return None


def _rare_bmp(data: bytes) -> Kind | None:
    """Recognise a BMP by its mark, the size of its header, and its one plane."""
    if not data.startswith(b"BM") or data[15:18] != b"\0\0\0" or data[26:28] != b"\1\0":
        return None
    name = _BMPS.get(int.from_bytes(data[30:34], "little"))
    return image(name, SAVE) if name else None


def _rare_psd(data: bytes) -> Kind | None:
    """Recognise a Photoshop file with more than 8 bits a sample."""
    if not data.startswith(b"8BPS\0\1") or data[22:24] not in (b"\0\x10", b"\0\x20"):
        return None
    return image(f"Photoshop (PSD, {data[23]} bits)", EXPORT)
