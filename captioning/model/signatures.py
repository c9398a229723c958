"""What a file is that is not decoded: its name and what to do about it, by its first bytes.

The name of the file plays no part: a HEIC photograph called .jpg is reported as HEIC.
"""

import re
import struct
from typing import NamedTuple

from captioning.model.containers import jpeg_segments
from captioning.values import Reason

_CONVERT = "convert the file to JPEG or PNG"
_HEIC = "convert the file to JPEG"
_RAW = "export the photograph as JPEG with the camera's program, or submit the JPEG that the camera wrote beside it"
_VIDEO = "save a frame of it as JPEG"
_PAGE = "save its pages or figures as PNG"
_SAVE = "open the picture in an image editor and save it as an ordinary JPEG or PNG"
_UNPACK = "unpack it and submit the folder"
_AGAIN = "fetch the image itself again"


class Kind(NamedTuple):
    """What a file is recognised as."""

    reason: Reason
    message: str


def identify(data: bytes) -> Kind | None:
    """Return what a file is that no decoder has opened, None if its beginning says nothing."""
    for find in (_iso_media, _riff, _tiff, rare_jpeg, _flashpix, _eip, _tga, _by_signature, _dib, _markup, _text):
        if (kind := find(data)) is not None:
            return kind
    return None


def _images(name: str, remedy: str = _CONVERT) -> Kind:
    return Kind(Reason.UNSUPPORTED, f"{name} images are not supported; {remedy}")


def _other(name: str, remedy: str, reason: Reason = Reason.UNSUPPORTED) -> Kind:
    return Kind(reason, f"{name}, not an image; {remedy}")


def _damaged(name: str) -> Kind:
    return Kind(Reason.UNREADABLE, f"a damaged {name}, its header is invalid; copy or fetch the file again")


_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"FUJIFILMCCD-RAW", _images("Fujifilm RAW (RAF)", _RAW)),
    (b"IIRO", _images("Olympus RAW (ORF)", _RAW)),
    (b"IIRS", _images("Olympus RAW (ORF)", _RAW)),
    (b"MMOR", _images("Olympus RAW (ORF)", _RAW)),
    (b"IIU\0", _images("Panasonic or Leica RAW (RW2)", _RAW)),
    (b"II\x1a\0\0\0HEAPCCDR", _images("Canon RAW (CRW)", _RAW)),
    (b"II\x1a\0\0\0HEAPJPGM", _images("Canon RAW (CRW)", _RAW)),
    (b"FOVb", _images("Sigma RAW (X3F)", _RAW)),
    (b"\0MRM", _images("Minolta RAW (MRW)", _RAW)),
    (b"\0MRI", _images("Minolta RAW (MRW)", _RAW)),
    (b"ARRI", _images("ARRIRAW", _RAW)),
    (b"NOKIARAW", _images("Nokia RAW", _RAW)),
    (b"DSC-Image", _images("Rollei RAW", _RAW)),
    (b"PWAD", _images("Sinar RAW", _RAW)),
    (b"PXN", _images("Logitech RAW (PXN)", _RAW)),
    (b"qktk", _images("Apple QuickTake", _RAW)),
    (b"qktn", _images("Apple QuickTake", _RAW)),
    (b"rawzor", _images("Rawzor RAW (RWZ)", "unpack the RAW file with Rawzor and export it as JPEG")),
    (b"\0\0\0\x0cJXL \r\n", _images("JPEG XL")),
    (b"\0\0\0\x0cJXL ", _images("JPEG XL")),
    (b"\xff\x0a", _images("JPEG XL")),
    (b"\0\0\0\x0cjP  ", _images("JPEG 2000")),
    (b"\0\0\0\x0cjP\x1a\x1a", _images("JPEG 2000")),
    (b"\xff\x4f\xff\x51", _images("JPEG 2000")),
    (b"II\xbc", _images("JPEG XR")),
    (b"MM\xbc", _images("JPEG XR")),
    (b"WMPHOTO", _images("JPEG XR")),
    (b"BPG\xfb", _images("BPG")),
    (b"FLIF", _images("FLIF")),
    (b"qoif", _images("QOI")),
    (b"8BPS\0\2", _images("Photoshop (PSB)", "export the picture as JPEG or PNG")),
    (b"8BPS", _images("Photoshop (PSD)", "export the picture as JPEG or PNG")),
    (b"gimp xcf", _images("GIMP (XCF)", "export the picture as JPEG or PNG")),
    (b"Paint Shop Pro Image File", _images("Paint Shop Pro", "export the picture as JPEG or PNG")),
    (b"AFFinity", _images("Affinity", "export the picture as JPEG or PNG")),
    (b"\0\xffKA", _images("Affinity", "export the picture as JPEG or PNG")),
    (b"CSFCHUNK", _images("Clip Studio Paint", "export the picture as JPEG or PNG")),
    (b"\0\0\1\0", _images("icon (ICO)")),
    (b"\0\0\2\0", _images("cursor (CUR)")),
    (b"icns", _images("icon (ICNS)")),
    (b"DDS ", _images("DDS")),
    (b"\xabKTX", _images("KTX")),
    (b"v/1\x01", _images("OpenEXR")),
    (b"#?RADIANCE", _images("Radiance HDR")),
    (b"#?RGBE", _images("Radiance HDR")),
    (b"SDPX", _images("DPX")),
    (b"XPDS", _images("DPX")),
    (b"\x80\x2a\x5f\xd7", _images("Cineon")),
    (b"SIMPLE  =", _images("FITS")),
    (b"\x01\xda", _images("SGI")),
    (b"\x59\xa6\x6a\x95", _images("Sun raster")),
    (b"\xb1\x68\xde\x3a", _images("DCX")),
    (b"\x8aMNG", _images("MNG")),
    (b"\x8bJNG", _images("JNG")),
    (b"FORM", _images("Amiga IFF")),
    (b"\xd7\xcd\xc6\x9a", _images("Windows metafile (WMF)")),
    (b"\1\0\x09\0\0\3", _images("Windows metafile (WMF)")),
    (b"/* XPM", _images("XPM")),
    (b"AT&TFORM", _other("a DjVu document", _PAGE)),
    (b"\xc5\xd0\xd3\xc6", _images("EPS")),
    (b"%!PS", _images("EPS or PostScript")),
    (b"%PDF", _other("a PDF or Illustrator document", _PAGE)),
    (b"\x1a\x45\xdf\xa3", _other("a Matroska or WebM video", _VIDEO)),
    (b"\0\0\1\xba", _other("an MPEG video", _VIDEO)),
    (b"\0\0\1\xb3", _other("an MPEG video", _VIDEO)),
    (b"FLV\1", _other("a Flash video", _VIDEO)),
    (b"OggS", _other("an Ogg audio or video file", _VIDEO)),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _other("a Windows Media file", _VIDEO)),
    (b"ID3", _other("an MP3 audio file", "submit images only")),
    (b"fLaC", _other("a FLAC audio file", "submit images only")),
    (b"PK\3\4", _other("a ZIP archive or office document", _UNPACK)),
    (b"PK\5\6", _other("an empty ZIP archive", "submit images only")),
    (b"Rar!\x1a\7", _other("a RAR archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", _other("a 7-Zip archive", _UNPACK)),
    (b"\x1f\x8b", _other("a gzip archive or compressed SVG", _UNPACK)),
    (b"BZh", _other("a bzip2 archive", _UNPACK)),
    (b"\xfd7zXZ\0", _other("an xz archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", _other("a Zstandard archive", _UNPACK)),
    (b"\xd0\xcf\x11\xe0", _other("an office document or a thumbnail database", _PAGE)),
    (b"{\\rtf", _other("a text document", _PAGE)),
    (b"\0\5\x16\7", _other("what macOS keeps beside a file (AppleDouble)", "submit the file without ._ in its name")),
    (b"\0\5\x16\0", _other("a file wrapped by macOS (AppleSingle)", "copy the original again")),
    (b"version https://git-lfs", _other("a Git LFS pointer", "run `git lfs pull`", Reason.UNREADABLE)),
    (b"SQLite format 3\0", _other("an SQLite database", "submit images only")),
    (b"\x7fELF", _other("a program", "submit images only")),
    (b"MZ", _other("a program", "submit images only")),
    (b"bplist00", _other("a property list", "submit images only")),
    (b"\xff\xd8", _damaged("JPEG")),  # a damaged file that begins like this is not called an unknown format
    (b"\x89PNG", _damaged("PNG")),
    (b"GIF8", _damaged("GIF")),
    (b"BM", _damaged("BMP")),
)


_DIB_HEADERS = tuple(struct.pack("<I", size) for size in (40, 52, 56, 64, 108, 124))


_PATTERNS = (
    (re.compile(rb"P[1-7Ff]\s|P[1-7]#"), _images("PNM")),
    (re.compile(rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]"), _images("PCX")),
    (re.compile(rb".{25}ARECOYK", re.S), _images("Contax RAW", _RAW)),
    (re.compile(rb".{257}ustar", re.S), _other("a tar archive", _UNPACK)),
)


def _by_signature(data: bytes) -> Kind | None:
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    for pattern, kind in _PATTERNS:
        if pattern.match(data):
            return kind
    if data[-18:-2] == b"TRUEVISION-XFILE":
        return _images("TGA")
    if data and not data.strip(b"\0"):
        return Kind(Reason.UNREADABLE, "nothing but zeros: the file was never written completely; copy it again")
    return None


def _tga(data: bytes) -> Kind | None:
    """Recognise a TGA without its later signature at the end: its fields allow few values, and little else fits."""
    if len(data) < 18 or 0 in (data[12] | data[13], data[14] | data[15]) or data[17] & 0xC0:
        return None
    plain = data[1] == 0 and data[2] in (2, 3, 10, 11) and not any(data[3:8]) and data[16] in (8, 15, 16, 24, 32)
    mapped = data[1] == 1 and data[2] in (1, 9) and data[7] in (15, 16, 24, 32) and data[16] in (8, 16)
    return _images("TGA") if plain or mapped else None


_FLASHPIX_CLASS = bytes.fromhex("0067615654c1ce11855300aa00a1f95b")


def _flashpix(data: bytes) -> Kind | None:
    return _images("FlashPix (FPX)") if data.startswith(b"\xd0\xcf\x11\xe0") and _FLASHPIX_CLASS in data else None


def _eip(data: bytes) -> Kind | None:
    """Recognise Capture One's package of a RAW file and its settings, a ZIP archive."""
    if data.startswith(b"PK\3\4") and re.search(rb"\.IIQ|CaptureOne/|manifest50\.xml", data[:4096], re.I):
        return _images("Phase One RAW (EIP)", _RAW)
    return None


def _dib(data: bytes) -> Kind | None:
    if data[:4] in _DIB_HEADERS and data[12:14] == b"\1\0":  # the size of its header, and one plane
        return _images("headerless bitmap (DIB)", "open the bitmap in an image editor and save it as PNG")
    return None


# -- JPEG, as hardly any program writes it: in medicine, for scans and proofs --

_RARE_JPEGS = {  # by the marker of the frame header
    **dict.fromkeys((0xC3, 0xC7), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6), "hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic-coded JPEG"),
    0xF7: "JPEG-LS",
}


def rare_jpeg(data: bytes) -> Kind | None:
    """Return what a JPEG is whose coding not every decoder knows; None for all other files."""
    for marker, segment in jpeg_segments(data) if data.startswith(b"\xff\xd8") else ():
        if marker in _RARE_JPEGS:
            return _images(_RARE_JPEGS[marker], _SAVE)
        if marker in (0xC0, 0xC1, 0xC2):
            return _images("12-bit JPEG", _SAVE) if segment[4:5] == b"\x0c" else None
    return None


# -- ISO media: HEIF, AVIF, Canon's CR3, QuickTime and MPEG-4 --

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_HEIF_BRANDS = (b"mif1", b"mif2", b"msf1", b"miaf", b"1pic", b"vvic", b"jpeg", b"j2ki")
_BRANDS = (
    (b"crx", _images("Canon RAW (CR3)", _RAW)),
    (b"jxl", _images("JPEG XL")),
    (b"jp", _images("JPEG 2000")),
    (b"avci", _images("HEIF (AVCI)", _HEIC)),
    (b"avcs", _images("HEIF (AVCI)", _HEIC)),
    (b"qt", _other("a QuickTime video (MOV)", _VIDEO)),
    (b"3g", _other("an MPEG-4 video (3GP)", _VIDEO)),
    (b"M4A", _other("an MPEG-4 audio file", "submit images only")),
    (b"M4B", _other("an MPEG-4 audio file", "submit images only")),
)
_QUICKTIME = (b"moov", b"mdat", b"wide", b"skip", b"pnot", b"free")


def _iso_media(data: bytes) -> Kind | None:
    name = data[4:8]
    if name in _QUICKTIME and int.from_bytes(data[:4], "big") != 0:
        return _other("a QuickTime video (MOV)", _VIDEO)
    if name != b"ftyp":
        return None
    end = max(min(int.from_bytes(data[:4], "big"), 512), 16)
    brand = data[8:12]
    brands = [brand, *(data[at : at + 4] for at in range(16, end - 3, 4))]
    if brand in (*_HEIC_BRANDS, *_HEIF_BRANDS) or brand.startswith((b"avi", b"he")):
        return _heif(brands, data)
    for prefix, kind in _BRANDS:
        if brand.startswith(prefix):
            return kind
    return _other("an MPEG-4 video (MP4)", _VIDEO)


def _heif(brands: list[bytes], data: bytes) -> Kind:
    """Tell AVIF from HEIC by how the pixels are coded; programs write either under the brands of both."""
    head = data[:4096]
    coded = {name for name in (b"av01", b"hvc1") if name in head}
    if coded == {b"av01"} or (not coded and _is_avif(brands)):
        return _images("AVIF", _HEIC)
    heic = coded or any(brand in _HEIC_BRANDS or brand.startswith(b"he") for brand in brands)
    return _images("HEIC" if heic else "HEIF", _HEIC)


def _is_avif(brands: list[bytes]) -> bool:
    if brands[0].startswith(b"avi"):
        return True
    return brands[0] in _HEIF_BRANDS and any(brand.startswith(b"avi") for brand in brands)


# -- RIFF --

_RIFF = {
    b"WEBP": _damaged("WebP"),
    b"AVI ": _other("an AVI video", _VIDEO),
    b"WAVE": _other("a WAV audio file", "submit images only"),
    b"ACON": _images("animated cursor (ANI)"),
}


def _riff(data: bytes) -> Kind | None:
    if data[:4] not in (b"RIFF", b"RIFX"):
        return None
    if data[8:11] == b"CDR":
        return _images("CorelDRAW", "export the picture as JPEG or PNG")
    if data[12:15] == b"VP8" or len(data) < 16:
        return _damaged("WebP")
    return _RIFF.get(data[8:12], _other("a RIFF file", "submit images only"))


# -- TIFF, and the RAW formats that are TIFF inside --

_MAKERS = (
    (b"nikon", "Nikon RAW (NEF)"),
    (b"sony", "Sony RAW (ARW)"),
    (b"pentax", "Pentax RAW (PEF)"),
    (b"ricoh", "Pentax RAW (PEF)"),
    (b"asahi", "Pentax RAW (PEF)"),
    (b"canon", "Canon RAW (CR2)"),
    (b"eastman kodak", "Kodak RAW (DCR)"),
    (b"kodak", "Kodak RAW (KDC)"),
    (b"hasselblad", "Hasselblad RAW (3FR)"),
    (b"imacon", "Hasselblad RAW (FFF)"),
    (b"leaf", "Leaf RAW (MOS)"),
    (b"phase one", "Phase One RAW (IIQ)"),
    (b"mamiya", "Mamiya RAW (MEF)"),
    (b"seiko epson", "Epson RAW (ERF)"),
    (b"samsung", "Samsung RAW (SRW)"),
    (b"olympus", "Olympus RAW (ORF)"),
    (b"panasonic", "Panasonic or Leica RAW (RW2)"),
    (b"leica", "Leica RAW (RWL)"),
    (b"sinar", "Sinar RAW (STI)"),
    (b"creo", "Leaf RAW (MOS)"),
)
_MAKE, _COMPRESSION, _PHOTOMETRIC, _SUBFILE, _SUB_IFDS, _PREVIEW, _DNG = 271, 259, 262, 254, 330, 513, 50706
_SENSOR_PHOTOMETRICS = (32803, 34892)  # colour filter array, linear raw
_SENSOR_COMPRESSIONS = (32767, 32769, 32770, 34713, 65000, 65535)


def _tiff(data: bytes) -> Kind | None:
    if data[:4] in (b"II+\0", b"MM\0+"):
        return _images("BigTIFF")
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    if data[8:10] == b"CR":
        return _images("Canon RAW (CR2)", _RAW)
    if data[8:12] in (b"IIII", b"MMMM"):
        return _images("Phase One RAW (IIQ)", _RAW)
    return _by_directory(*_first_directory(data))


def _by_directory(tags: dict[int, int], make: bytes) -> Kind:
    """Distinguish TIFF from RAW: the first directory of a RAW file holds a preview or the samples of a sensor."""
    if _DNG in tags:
        return _images("DNG (RAW)", _RAW)
    camera = next((name for maker, name in _MAKERS if make.lower().startswith(maker)), "")
    if (
        _SUB_IFDS in tags
        or (camera and _PREVIEW in tags)
        or tags.get(_SUBFILE) == 1
        or tags.get(_PHOTOMETRIC) in _SENSOR_PHOTOMETRICS
        or tags.get(_COMPRESSION) in _SENSOR_COMPRESSIONS
    ):
        return _images(camera or "RAW", _RAW)
    return _images("TIFF" if tags else "TIFF or RAW")


def _first_directory(data: bytes) -> tuple[dict[int, int], bytes]:
    """Return the values of the first directory that are short or long numbers, and the maker of the camera."""
    order = "<" if data[:2] == b"II" else ">"
    tags, make = {}, b""
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
        for entry in range(at + 2, at + 2 + 12 * min(count, 200), 12):
            tag, kind, number, value = struct.unpack_from(order + "HHII", data, entry)
            if kind == 3:
                (value,) = struct.unpack_from(order + "H", data, entry + 8)
            if tag == _MAKE:
                start = value if number > 4 else entry + 8
                make = data[start : start + min(number, 40)]
            if 1 <= kind <= 13:
                tags[tag] = value
    except struct.error:  # a directory that is cut short or lies elsewhere
        pass
    return tags, make


# -- markup and text --

_PROLOG = re.compile(rb"\s*(?:<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE\s+svg[^\[>]*(?:\[.*?\])?\s*>|<\?.*?\?>)", re.S | re.I)


def _markup(data: bytes) -> Kind | None:
    """Recognise SVG behind a declaration, comments and a doctype, and web pages that were saved as an image."""
    text = _eight_bit(data[:65_536])
    at = 0
    while (found := _PROLOG.match(text, at)) is not None:
        at = found.end()
    head = text[at:].lstrip()[:200].lower()
    if re.match(rb"<(?:\w+:)?svg[\s>:/]", head):
        return _images("SVG", "save the drawing as PNG")
    if re.match(rb"<(?:!doctype\s+html|html|head|body|script|title|meta|div|p\b|h1|iframe|center)", head):
        return _other("a web page", _AGAIN, Reason.UNREADABLE)
    if at or re.match(rb"<\w", head):
        return _other("an XML or HTML text", _AGAIN, Reason.UNREADABLE)
    return None


def _eight_bit(data: bytes) -> bytes:
    """Return text without its byte order mark, UTF-16 as UTF-8."""
    for mark, coding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return data[2:].decode(coding, "ignore").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _text(data: bytes) -> Kind | None:
    head = _eight_bit(data[:4096])
    if len(head.strip()) < 4 or re.match(rb"\s*<", head):
        return None
    if b"\0" in head or len(head.translate(None, bytes(range(9)) + bytes(range(14, 32)))) < len(head):
        return None
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return None
    if re.match(rb"\s*[\[{]", head):
        return _other("a JSON text", _AGAIN, Reason.UNREADABLE)
    return _other("a text", _AGAIN, Reason.UNREADABLE)
