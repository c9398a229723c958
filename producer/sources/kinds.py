"""What a file is, by its extension: an image to caption, or something else that is skipped and counted by kind."""

import os
import re
from collections.abc import Iterable

IMAGES = frozenset(
    b"jpg jpeg jpe jfif jfi jif pjpeg pjp jpg_large mpo jps insp"  # JPEG, also as web pages and stereo cameras save it
    b" png apng webp gif bmp dib"
    b" heic heif hif heics heifs avci avcs avif avifs"  # phones; Canon and Sony write .hif
    b" tif tiff jxl jp2 j2k j2c jpc jpf jpx jpm jph jxr wdp hdp"
    b" psd psb xcf tga targa pcx ppm pgm pbm pnm pam exr hdr fpx pcd"  # image editors and scanners
    b" dng gpr raw"  # RAW of several makers, then by maker: Canon, Nikon, Sony, Fujifilm, Olympus, Panasonic
    b" cr2 cr3 crw nef nrw arw arq sr2 srf raf orf ori rw2 rwl"
    b" pef ptx srw x3f x3i 3fr fff iiq cap eip mos mef mrw mdc erf bay kdc dcr dcs k25 kc2 rwz"
    b" pxn drf sti cs1 ari".split()
)
"""Extensions that cameras, phones, scanners and image editors give to a photograph, in upper or lower case.

Formats that are not decoded are included: such a file gets a failed item with a message that names a remedy. Icons,
vector graphics and videos would only flood a person with failures: they are skipped.
"""

_OTHERS = {
    "video": "mov mp4 m4v mp avi mkv webm mpg mpeg mpe mjpg m2v mts m2ts mod tod 3gp 3g2 wmv asf flv f4v vob ogv divx"
    " dv mxf rm rmvb lrv insv 360 crm braw r3d",
    "sound": "wav mp3 m4a aac flac ogg oga opus wma aif aiff amr caf mid",
    "vector graphic": "svg svgz ai eps ps emf wmf cdr dxf dwg odg sketch",
    "icon": "ico icns cur ani",
    "archive": "zip 7z rar tar gz tgz bz2 tbz tbz2 xz txz zst lz lzma lz4 cab iso dmg sit sitx arj lzh cbz cbr z",
    "document": "pdf doc docx odt rtf xls xlsx ods ppt pptx odp epub mobi djvu xps indd pub",
    "sidecar": "xmp aae pp3 dop cos comask on1 nksc vrd dr4 arp",
    "thumbnail": "thm",
}
_KIND_OF = {extension.encode(): kind for kind, extensions in _OTHERS.items() for extension in extensions.split()}
_REMEDIES = {
    "video": "is a video: export frames of it as JPEG files first",
    "sound": "is a sound: only images can be captioned",
    "vector graphic": "is a vector graphic: export it as a PNG file first",
    "archive": "is an archive: unpack it first",
    "document": "is a document: export its pages as PNG files first",
    "sidecar": "belongs to an image: submit the image itself",
}
_LIVE_STILLS = frozenset((b"heic", b"heif", b"jpg", b"jpeg"))
_EXTENSION = re.compile(rb"(?=.*[a-z])[a-z0-9_+-]{1,12}")  # other endings are part of a name: IMG.20230101


def _extension(name: bytes) -> bytes:
    return os.path.splitext(name)[1][1:].lower()


def is_image(name: bytes) -> bool:
    """Return whether a file of this name is taken for an image."""
    return _extension(name) in IMAGES


def stems_of_stills(names: Iterable[bytes]) -> frozenset[bytes]:
    """Return the names, without extension, of those files of a folder that may be the still of a Live Photo."""
    return frozenset(os.path.splitext(name)[0] for name in names if _extension(name) in _LIVE_STILLS)


def category_of(name: bytes, stills: frozenset[bytes] = frozenset()) -> str:
    """Return the category under which a file that is not an image is counted: `.mov video`, `.txt file`.

    `stills`: what `stems_of_stills` returns for its folder. A phone writes a Live Photo as a still and a .mov video.
    """
    extension = _extension(name)
    if extension == b"mov" and os.path.splitext(name)[0] in stills:
        return "Live Photo video"
    if not _EXTENSION.fullmatch(extension):
        return "other file"
    return f".{extension.decode()} {_KIND_OF.get(extension, 'file')}"


def remedy_for(name: bytes) -> str:
    """Return what a person does with a file that is certainly not an image, and "" for every other file."""
    return _REMEDIES.get(_KIND_OF.get(_extension(name), ""), "")
