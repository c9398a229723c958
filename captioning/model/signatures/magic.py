"""Kinds of files that are known by fixed bytes at a fixed place, almost always the first ones."""

import re
import struct

from captioning.model.signatures.kind import (
    COPY,
    DRAWING,
    EXPORT,
    FRAME,
    NOTHING,
    PAGE,
    RAW,
    UNPACK,
    Kind,
    damaged,
    image,
    instead,
    other,
)
from captioning.values import Reason

_TOO_SHORT = 12  # bytes; not even the headers of small formats fit in fewer
_AS_TEXT = "a program copied it as text"

_BEGINNINGS: tuple[tuple[Kind, tuple[bytes, ...]], ...] = (
    # RAW formats that are not TIFF inside
    (image("Fujifilm RAW (RAF)", RAW), (b"FUJIFILMCCD-RAW",)),
    (image("Olympus RAW (ORF)", RAW), (b"IIRO", b"IIRS", b"MMOR")),
    (image("Panasonic or Leica RAW (RW2)", RAW), (b"IIU\0",)),
    (image("Canon RAW (CRW)", RAW), (b"II\x1a\0\0\0HEAPCCDR", b"II\x1a\0\0\0HEAPJPGM")),
    (image("Sigma RAW (X3F)", RAW), (b"FOVb",)),
    (image("Minolta RAW (MRW)", RAW), (b"\0MRM", b"\0MRI")),
    (image("ARRIRAW", RAW), (b"ARRI",)),
    (image("Nokia RAW", RAW), (b"NOKIARAW",)),
    (image("Rollei RAW", RAW), (b"DSC-Image",)),
    (image("Sinar RAW", RAW), (b"PWAD",)),
    (image("Logitech RAW (PXN)", RAW), (b"PXN",)),
    (image("Apple QuickTake", RAW), (b"qktk", b"qktn")),
    (image("Rawzor RAW (RWZ)", "unpack the RAW file with Rawzor and export it as JPEG"), (b"rawzor",)),
    # images
    (image("JPEG XL", decoded_as="JXL"), (b"\0\0\0\x0cJXL ", b"\xff\x0a")),
    (image("JPEG 2000", decoded_as="JPEG2000"), (b"\0\0\0\x0cjP  ", b"\0\0\0\x0cjP\x1a\x1a", b"\xff\x4f\xff\x51")),
    (image("JPEG XR"), (b"II\xbc", b"MM\xbc", b"WMPHOTO")),
    (image("JPEG XS"), (b"\xff\x10\xff\x50",)),
    (image("JBIG2"), (b"\x97JB2\r\n\x1a\n",)),
    (image("BPG"), (b"BPG\xfb",)),
    (image("FLIF"), (b"FLIF",)),
    (image("QOI"), (b"qoif",)),
    (image("Farbfeld"), (b"farbfeld",)),
    (image("Photoshop (PSB)", EXPORT), (b"8BPS\0\2",)),
    (image("Photoshop (PSD)", EXPORT, decoded_as="PSD"), (b"8BPS",)),
    (image("GIMP (XCF)", EXPORT), (b"gimp xcf",)),
    (image("Paint Shop Pro", EXPORT), (b"Paint Shop Pro Image File",)),
    (image("Paint.NET", EXPORT), (b"PDN3",)),
    (image("Affinity", EXPORT), (b"AFFinity", b"\0\xffKA")),
    (image("Clip Studio Paint", EXPORT), (b"CSFCHUNK",)),
    (image("icon (ICO)"), (b"\0\0\1\0",)),
    (image("cursor (CUR)"), (b"\0\0\2\0",)),
    (image("icon (ICNS)"), (b"icns",)),
    (image("DDS"), (b"DDS ",)),
    (image("KTX"), (b"\xabKTX",)),
    (image("OpenEXR"), (b"v/1\x01",)),
    (image("Radiance HDR"), (b"#?RADIANCE", b"#?RGBE")),
    (image("DPX"), (b"SDPX", b"XPDS")),
    (image("Cineon"), (b"\x80\x2a\x5f\xd7",)),
    (image("FITS"), (b"SIMPLE  =",)),
    (image("SGI"), (b"\x01\xda",)),
    (image("Sun raster"), (b"\x59\xa6\x6a\x95",)),
    (image("DCX"), (b"\xb1\x68\xde\x3a",)),
    (image("MNG"), (b"\x8aMNG",)),
    (image("JNG"), (b"\x8bJNG",)),
    (image("XPM"), (b"/* XPM",)),
    (image("Windows metafile (WMF)", DRAWING), (b"\xd7\xcd\xc6\x9a", b"\1\0\x09\0\0\3")),
    (image("EPS"), (b"\xc5\xd0\xd3\xc6",)),
    (image("EPS or PostScript"), (b"%!PS",)),
    # films and sounds
    (other("a Matroska or WebM video", FRAME), (b"\x1a\x45\xdf\xa3",)),
    (other("an MPEG video", FRAME), (b"\0\0\1\xba", b"\0\0\1\xb3")),
    (other("a Flash video or film", FRAME), (b"FLV\1", b"FWS", b"CWS", b"ZWS")),
    (other("a RealMedia video", FRAME), (b".RMF",)),
    (other("an Ogg audio or video file", FRAME), (b"OggS",)),
    (other("a Windows Media file", FRAME), (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",)),
    (other("an MP3 audio file", NOTHING), (b"ID3",)),
    (other("a FLAC audio file", NOTHING), (b"fLaC",)),
    # documents, archives and programs
    (other("a DjVu document", PAGE), (b"AT&TFORM",)),
    (other("a ZIP archive or office document", UNPACK), (b"PK\3\4",)),
    (other("an empty ZIP archive", NOTHING), (b"PK\5\6",)),
    (other("a RAR archive", UNPACK), (b"Rar!\x1a\7",)),
    (other("a 7-Zip archive", UNPACK), (b"7z\xbc\xaf\x27\x1c",)),
    (other("a bzip2 archive", UNPACK), (b"BZh",)),
    (other("an xz archive", UNPACK), (b"\xfd7zXZ\0",)),
    (other("a Zstandard archive", UNPACK), (b"\x28\xb5\x2f\xfd",)),
    (other("an office document or a thumbnail database", PAGE), (b"\xd0\xcf\x11\xe0",)),
    (other("a text document", PAGE), (b"{\\rtf",)),
    (
        other("what macOS keeps beside a file (AppleDouble)", "submit the file without ._ in its name"),
        (b"\0\5\x16\7",),
    ),
    (other("a file wrapped by macOS (AppleSingle)", "copy the original again"), (b"\0\5\x16\0",)),
    (other("an SQLite database", NOTHING), (b"SQLite format 3\0",)),
    (other("a program", NOTHING), (b"\x7fELF", b"MZ")),
    (other("a property list", NOTHING), (b"bplist00",)),
    (other("a shortcut of Windows", "submit the file that it leads to"), (b"L\0\0\0\1\x14\2\0",)),
    (instead("a Git LFS pointer", "run `git lfs pull`"), (b"version https://git-lfs",)),
    (instead("the answer of a web server"), (b"HTTP/1.",)),
    # a damaged file that begins like this is not called an unknown format
    (damaged("JPEG"), (b"\xff\xd8",)),
    (damaged("JPEG", _AS_TEXT), (b"\xc3\xbf\xc3\x98\xc3\xbf", b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd")),
    (damaged("PNG"), (b"\x89PNG",)),
    (damaged("PNG", _AS_TEXT), (b"\xc2\x89PNG", b"\xef\xbf\xbdPNG")),
    (damaged("GIF"), (b"GIF8",)),
    (damaged("BMP"), (b"BM",)),
)
_PATTERNS = (
    (image("PNM"), re.compile(rb"P[1-7Ff]\s|P[1-7]#")),
    (image("PCX"), re.compile(rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]")),
    (image("XBM"), re.compile(rb"\s*(?:/\*.*?\*/\s*)?#define\s+\w+_width\s", re.S)),
    (image("PICT"), re.compile(rb"\0{512}.{10}\0\x11\x02\xff", re.S)),
    (image("Kodak Photo CD (PCD)"), re.compile(rb".{2048}PCD_", re.S)),
    (image("DICOM", EXPORT), re.compile(rb".{128}DICM", re.S)),
    (image("Windows metafile (EMF)", DRAWING), re.compile(rb"\x01\0\0\0.{36} EMF", re.S)),
    (image("Contax RAW", RAW), re.compile(rb".{25}ARECOYK", re.S)),
    (other("a PDF or Illustrator document", PAGE), re.compile(rb"(?:\xef\xbb\xbf)?\s*%PDF")),
    (other("an MPEG video (AVCHD)", FRAME), re.compile(rb"(?:.{4})?G.{187}(?:.{4})?G.{187}(?:.{4})?G", re.S)),
    (other("a tar archive", UNPACK), re.compile(rb".{257}ustar", re.S)),
    (damaged("JPEG", "other bytes stand before it"), re.compile(rb".{1,64}\xff\xd8\xff[\xdb\xe0\xe1]", re.S)),
    (damaged("PNG", "other bytes stand before it"), re.compile(rb".{1,64}\x89PNG\r\n\x1a\n", re.S)),
)
_FLASHPIX_CLASS = bytes.fromhex("0067615654c1ce11855300aa00a1f95b")
_EIP = re.compile(rb"\.IIQ|CaptureOne/|manifest50\.xml", re.I)
_DIB_HEADERS = tuple(struct.pack("<I", size) for size in (40, 52, 56, 64, 108, 124))


def find(data: bytes) -> Kind | None:
    """Return the kind of a file that has a known signature, None for all others."""
    if not data.strip(b"\0"):
        return Kind(Reason.UNREADABLE, "nothing but zeros: the file was never written completely; copy it again")
    if (special := _flashpix(data) or _eip(data) or _tga(data)) is not None:
        return special
    for kind, beginnings in _BEGINNINGS:
        if data.startswith(beginnings):
            return kind
    for kind, pattern in _PATTERNS:
        if pattern.match(data):
            return kind
    return _dib(data)


def _flashpix(data: bytes) -> Kind | None:
    return image("FlashPix (FPX)") if data.startswith(b"\xd0\xcf\x11\xe0") and _FLASHPIX_CLASS in data else None


def _eip(data: bytes) -> Kind | None:
    """Recognise Capture One's package of a RAW file and its settings, a ZIP archive."""
    return image("Phase One RAW (EIP)", RAW) if data.startswith(b"PK\3\4") and _EIP.search(data[:4096]) else None


def _tga(data: bytes) -> Kind | None:
    """Recognise a TGA, also without its later signature at the end: its fields allow few values."""
    if data[-18:-2] == b"TRUEVISION-XFILE":
        return image("TGA")
    if len(data) < 18 or 0 in (data[12] | data[13], data[14] | data[15]) or data[17] & 0xC0:
        return None
    plain = data[1] == 0 and data[2] in (2, 3, 10, 11) and not any(data[3:8]) and data[16] in (8, 15, 16, 24, 32)
    mapped = data[1] == 1 and data[2] in (1, 9) and data[7] in (15, 16, 24, 32) and data[16] in (8, 16)
    return image("TGA") if plain or mapped else None


def _dib(data: bytes) -> Kind | None:
    if data[:4] in _DIB_HEADERS and data[12:14] == b"\1\0":  # the size of its header, and one plane
        return image("headerless bitmap (DIB)", "open the bitmap in an image editor and save it as PNG")
    return None


def find_short(data: bytes) -> Kind | None:
    """Return the kind of a file that is too short for an image, None for longer ones."""
    if len(data) >= _TOO_SHORT:
        return None
    size = "1 byte" if len(data) == 1 else f"{len(data)} bytes"
    return Kind(Reason.UNREADABLE, f"a file of {size}, too short for an image; {COPY}")
