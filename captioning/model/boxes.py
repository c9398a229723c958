"""The boxes of ISO media files, which HEIC, AVIF, JPEG 2000 and JPEG XL are: sizes and colours, before decoding.

libheif allocates what a header declares. As in `containers`, damage is no error here: parsing stops there.
"""

import struct
from collections.abc import Iterator

_MOST = 10_000  # boxes on one level; a panorama of tiles has hundreds
_SKIPPED = {b"meta": 4}  # bytes before the first box inside a box
_MINIMUM = 8  # bytes of a box's head


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each box on one level, and where its content begins and ends. The last may be cut short."""
    at, end = start, len(data) if end is None else min(end, len(data))
    for _ in range(_MOST):
        if at + _MINIMUM > end:
            return
        size, head = int.from_bytes(data[at : at + 4], "big"), _MINIMUM
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        size = size or end - at  # 0: up to the end
        if size < head:
            return
        yield data[at + 4 : at + 8], at + head, at + size
        at += size


def box(data: bytes, *path: bytes) -> tuple[int, int] | None:
    """Return where the content of the first box at a path begins and ends; None if there is none."""
    start, end = 0, len(data)
    for wanted in path:
        found = next(((a, b) for name, a, b in boxes(data, start, end) if name == wanted), None)
        if found is None:
            return None
        start, end = found[0] + _SKIPPED.get(wanted, 0), found[1]
    return start, end


def is_cut(data: bytes) -> bool:
    """Return whether a file of boxes ends before its last box does, or a JPEG 2000 without them before its end mark."""
    if data.startswith(b"\xff\x4f\xff\x51"):
        return not data.rstrip(b"\0").endswith(b"\xff\xd9")
    return data[4:8] in (b"ftyp", b"jP  ", b"JXL ") and any(end > len(data) for _, _, end in boxes(data))


def heif_size(data: bytes) -> tuple[int, int] | None:
    """Return the size of the largest image in a HEIC or AVIF file: the image, a tile of it or a thumbnail."""
    place = box(data, b"meta", b"iprp", b"ipco") if data[4:8] == b"ftyp" else None
    if place is None:
        return None
    declared = [data[start + 4 : start + 12] for name, start, _ in boxes(data, *place) if name == b"ispe"]
    sizes: list[tuple[int, int]] = [struct.unpack(">II", size) for size in declared if len(size) == 8]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def heif_colours(data: bytes) -> bytes | None:
    """Return how a HEIC or AVIF file codes its colours, in four bytes like a PNG's cICP, as RGB; else None."""
    place = box(data, b"meta", b"iprp", b"ipco") if data[4:8] == b"ftyp" else None
    for name, start, _ in boxes(data, *place) if place else ():
        if name == b"colr" and data[start : start + 4] == b"nclx":
            primaries, curve = struct.unpack(">HH", data[start + 4 : start + 8].ljust(4, b"\0"))
            return bytes((primaries & 255, curve & 255, 0, 1))  # the decoder returns RGB in full range
    return None


def jpeg2000_profile(data: bytes) -> bytes | None:
    """Return the ICC profile of a JPEG 2000 file; else None."""
    place = box(data, b"jp2h") if data[4:8] == b"jP  " else None
    for name, start, end in boxes(data, *place) if place else ():
        if name == b"colr" and data[start : start + 1] == b"\x02":
            return data[start + 3 : end]
    return None
