"""TIFF, and the RAW formats of most cameras, which are TIFF inside."""

import struct

from captioning.model.signatures.kind import RAW, Kind, image

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
    (b"om digital", "Olympus RAW (ORF)"),
    (b"panasonic", "Panasonic or Leica RAW (RW2)"),
    (b"leica", "Leica RAW (RWL)"),
    (b"sinar", "Sinar RAW (STI)"),
    (b"creo", "Leaf RAW (MOS)"),
)
_MAKE, _COMPRESSION, _PHOTOMETRIC, _SUBFILE, _SUB_IFDS, _PREVIEW, _DNG = 271, 259, 262, 254, 330, 513, 50706
_PARTS = (273, 279, 324, 325)  # where strips and tiles begin, and their lengths in bytes
_SENSOR_PHOTOMETRICS = (32803, 34892)  # colour filter array, linear raw
_SENSOR_COMPRESSIONS = (32767, 32769, 32770, 34713, 65000, 65535)


def find(data: bytes) -> Kind | None:
    """Return the kind of a TIFF or of a RAW file that is TIFF inside, None for all others."""
    if data[:4] in (b"II+\0", b"MM\0+"):
        return image("BigTIFF", decoded_as="TIFF")
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    if data[8:10] == b"CR":
        return image("Canon RAW (CR2)", RAW)
    if data[8:12] in (b"IIII", b"MMMM"):
        return image("Phase One RAW (IIQ)", RAW)
    return _by_directory(*_first_directory(data))


def _by_directory(tags: dict[int, int], make: bytes) -> Kind:
    """Distinguish TIFF from RAW: the first directory of a RAW file holds a preview or the samples of a sensor."""
    if _DNG in tags:
        return image("DNG (RAW)", RAW)
    camera = next((name for maker, name in _MAKERS if make.lower().startswith(maker)), "")
    if (
        _SUB_IFDS in tags
        or (camera and _PREVIEW in tags)
        or tags.get(_SUBFILE) == 1
        or tags.get(_PHOTOMETRIC) in _SENSOR_PHOTOMETRICS
        or tags.get(_COMPRESSION) in _SENSOR_COMPRESSIONS
    ):
        return image(camera or "RAW", RAW)
    return image("TIFF" if tags else "TIFF or RAW", decoded_as="TIFF")


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


def is_cut(data: bytes) -> bool:
    """Return whether a TIFF, or a RAW file like it, ends before its first directory or the pixels that this lists."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return False
    order = "<" if data[:2] == b"II" else ">"
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
        entries = [(*struct.unpack_from(order + "HHI", data, at + 2 + 12 * i), at + 10 + 12 * i) for i in range(count)]
        lists = {tag: _numbers(data, order, *entry) for tag, *entry in entries if tag in _PARTS}
    except struct.error:
        return True
    places = zip(lists.get(273, ()) + lists.get(324, ()), lists.get(279, ()) + lists.get(325, ()), strict=False)
    return any(start + length > len(data) for start, length in places)


def _numbers(data: bytes, order: str, kind: int, number: int, place: int) -> tuple[int, ...]:
    """Return the numbers of an entry. Raises struct.error when they lie behind the end of the file."""
    form, size = ("H", 2) if kind == 3 else ("I", 4)
    if number * size > 4:
        (place,) = struct.unpack_from(order + "I", data, place)
    if place + number * size > len(data):
        raise struct.error
    return struct.unpack_from(f"{order}{number}{form}", data, place)
