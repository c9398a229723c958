"""Containers of many formats: ISO media (HEIF, AVIF, Canon's CR3, QuickTime, MPEG-4), RIFF and IFF."""

from captioning.model.signatures.kind import EXPORT, FRAME, HEIC, NOTHING, RAW, Kind, damaged, image, other


def find(data: bytes) -> Kind | None:
    """Return the kind of a file by the names that its container has for it, None for other files."""
    return _iso_media(data) or _riff(data) or _iff(data)


# -- ISO media --

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_HEIF_BRANDS = (b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"1pic", b"vvic", b"jpeg", b"j2ki")
_BRANDS = (
    (b"crx", image("Canon RAW (CR3)", RAW)),
    (b"jxl", image("JPEG XL", decoded_as="JXL")),
    (b"jp", image("JPEG 2000", decoded_as="JPEG2000")),
    (b"avci", image("HEIF (AVCI)", HEIC)),
    (b"avcs", image("HEIF (AVCI)", HEIC)),
    (b"qt", other("a QuickTime video (MOV)", FRAME)),
    (b"3g", other("an MPEG-4 video (3GP)", FRAME)),
    (b"M4A", other("an MPEG-4 audio file", NOTHING)),
    (b"M4B", other("an MPEG-4 audio file", NOTHING)),
)
_QUICKTIME = (b"moov", b"mdat", b"wide", b"skip", b"pnot", b"free")


def _iso_media(data: bytes) -> Kind | None:
    name = data[4:8]
    if name in _QUICKTIME and int.from_bytes(data[:4], "big") != 0:
        return other("a QuickTime video (MOV)", FRAME)
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
    return other("an MPEG-4 video (MP4)", FRAME)


def _heif(brands: list[bytes], data: bytes) -> Kind:
    """Tell AVIF from HEIC by how the pixels are coded; programs write either under the brands of both."""
    head = data[:4096]
    coded = {name for name in (b"av01", b"hvc1") if name in head}
    if coded == {b"av01"} or (not coded and _is_avif(brands)):
        return image("AVIF", HEIC, decoded_as="AVIF")
    heic = coded or any(brand in _HEIC_BRANDS or brand.startswith(b"he") for brand in brands)
    return image("HEIC" if heic else "HEIF", HEIC, decoded_as="HEIF")


def _is_avif(brands: list[bytes]) -> bool:
    if brands[0].startswith(b"avi"):
        return True
    return brands[0] in _HEIF_BRANDS and any(brand.startswith(b"avi") for brand in brands)


# -- RIFF --
_RIFF = {
    b"WEBP": damaged("WebP"),
    b"AVI ": other("an AVI video", FRAME),
    b"WAVE": other("a WAV audio file", NOTHING),
    b"ACON": image("animated cursor (ANI)"),
}


def _riff(data: bytes) -> Kind | None:
    if data[:4] not in (b"RIFF", b"RIFX"):
        return None
    if data[8:11] == b"CDR":
        return image("CorelDRAW", EXPORT)
    if data[12:15] == b"VP8" or len(data) < 16:
        return damaged("WebP")
    return _RIFF.get(data[8:12], other("a RIFF file", NOTHING))


# -- IFF --

_IFF = {
    **dict.fromkeys((b"AIFF", b"AIFC", b"8SVX"), other("an AIFF audio file", NOTHING)),
    **dict.fromkeys((b"ILBM", b"PBM ", b"ACBM", b"HAM6", b"RGB8", b"DEEP"), image("Amiga IFF")),
}


def _iff(data: bytes) -> Kind | None:
    return _IFF.get(data[8:12], other("an IFF file", NOTHING)) if data.startswith(b"FORM") else None
