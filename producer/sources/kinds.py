"""What a file is, by its extension: an image to caption, or something else that is skipped and counted by kind."""

import os
import re
from collections.abc import Iterable, Mapping

RAW = frozenset(
    b"dng gpr raw"  # of several makers, then by maker: Canon, Nikon, Sony, Fujifilm, Olympus, Panasonic
    b" cr2 cr3 crw nef nrw arw arq sr2 srf raf orf ori rw2 rwl"
    b" pef ptx srw x3f x3i 3fr fff iiq cap eip mos mef mrw mdc erf bay kdc dcr dcs k25 kc2 rwz"
    b" pxn drf sti cs1 ari".split()
)
"""Extensions of what a camera's sensor saw, before it is developed."""

IMAGES = RAW | frozenset(
    b"jpg jpeg jpe jfif jfi jif pjpeg pjp jpg_large mpo jps insp"  # JPEG, also as web pages and stereo cameras save it
    b" png apng webp gif bmp dib"
    b" heic heif hif heics heifs avci avcs avif avifs"  # phones; Canon and Sony write .hif
    b" tif tiff jxl jp2 j2k j2c jpc jpf jpx jpm jph jxr wdp hdp"
    b" psd psb xcf tga targa pcx ppm pgm pbm pnm pam exr hdr fpx pcd".split()  # image editors and scanners
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
_PARTNERS = (b"jpg", b"jpeg", b"jpe", b"jfif", b"heic", b"heif", b"hif")  # the first ones are the fastest to read
_EXTENSION = re.compile(rb"(?=.*[a-z])[a-z0-9_+-]{1,12}")  # other endings are part of a name: IMG.20230101


def _extension(name: bytes) -> bytes:
    return os.path.splitext(name)[1][1:].lower()


def is_image(name: bytes) -> bool:
    """Return whether a file of this name is taken for an image."""
    return _extension(name) in IMAGES


def partners(names: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the images of a folder that may be the partner of another file, by their names without extension."""
    images = [name for name in names if may_be_partner(name)]
    images.sort(key=lambda name: (-_PARTNERS.index(_extension(name)), name))
    return {os.path.splitext(name)[0]: name for name in images}


def may_be_partner(name: bytes) -> bool:
    """Return whether a file of this name is an image that others of its name may share the caption of."""
    return _extension(name) in _PARTNERS


def partners_by_folder(paths: Iterable[bytes]) -> dict[bytes, dict[bytes, bytes]]:
    """Return what `partners` returns for each folder of these files in which a file may have a partner."""
    names: dict[bytes, list[bytes]] = {os.path.dirname(path): [] for path in paths if may_have_partner(path)}
    for folder, name in map(os.path.split, paths if names else ()):
        if folder in names:
            names[folder].append(name)
    return {folder: partners(of_folder) for folder, of_folder in names.items()}


def may_have_partner(name: bytes) -> bool:
    """Return whether a camera may have written a file as another form of an image: as RAW, or a Live Photo's video."""
    return _extension(name) == b"mov" or _extension(name) in RAW


def stem_in_pair(name: bytes) -> bytes | None:
    """Return the name without extension of a file that may share a caption with others of this name, else None."""
    return os.path.splitext(name)[0] if may_have_partner(name) or may_be_partner(name) else None


def partner_of(name: bytes, images: Mapping[bytes, bytes]) -> bytes | None:
    """Return the image that lends a file its caption, of those that `partners` returned for its folder; or None."""
    return images.get(os.path.splitext(name)[0]) if may_have_partner(name) else None


def category_of(name: bytes) -> str:
    """Return the category under which a file that is not an image is counted: `.mov video`, `.txt file`."""
    extension = _extension(name)
    if not _EXTENSION.fullmatch(extension):
        return "other file"
    return f".{extension.decode()} {_KIND_OF.get(extension, 'file')}"


def remedy_for(name: bytes) -> str:
    """Return what a person does with a file that is certainly not an image, and "" for every other file."""
    return _REMEDIES.get(_KIND_OF.get(_extension(name), ""), "")
