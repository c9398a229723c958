"""The container structure of image files: sizes, frames and metadata that are needed before an image is decoded.

Nothing is decoded here. Damage is not an error here either: parsing stops there, and Pillow reports what is wrong.
"""

import re
import struct
from collections.abc import Iterator
from itertools import islice

# Ends the entropy-coded data of a JPEG. FF00 and restart markers are part of that data.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END = 0xDA, 0xD9
# Not JFIF, Exif and Adobe, which change how the image looks.
_JPEG_PROFILES = frozenset((0xE2,))
_JPEG_TEXTS = frozenset((*range(0xE3, 0xEE), 0xEF, 0xFE))
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE = frozenset((b"tRNS", b"eXIf", b"sBIT"))
_PNG_COLOURS = frozenset((b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM"))
_PNG_ANIMATION = frozenset((b"acTL", b"fcTL", b"fdAT"))


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return the canvas size of an extended WebP, which libwebp allocates when it reads the header; else None."""
    if not _is_webp(data) or data[12:16] != b"VP8X" or len(data) < 30:
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


def webp_is_cut(data: bytes) -> bool:
    """Return whether a WebP is shorter than its header claims."""
    return _is_webp(data) and int.from_bytes(data[4:8], "little") + 8 > len(data)


def webp_first_frame(data: bytes) -> tuple[bytes, int]:
    """Return a WebP without its frames after the first, and the number of its frames.

    libwebp refuses a whole animation when one of its later frames is damaged.
    """
    if webp_canvas(data) is None:
        return data, 1
    kept, frames = [], 0
    for name, start, end in riff_chunks(data):
        frames += name == b"ANMF"
        if name != b"ANMF" or frames == 1:
            kept.append(data[start - 8 : end + (end - start) % 2])
    if not frames:
        return data, 1
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, frames


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each complete chunk of a WebP, and where its content begins and ends."""
    at = 12
    while at + 8 <= len(data):
        start = at + 8
        end = start + int.from_bytes(data[at + 4 : start], "little")
        at = end + (end - start) % 2
        if at > len(data):
            break
        yield data[start - 8 : start - 4], start, end


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def gif_frames(data: bytes, most: int) -> int:
    """Count the frames of a GIF, up to `most` + 1. A valid file of 256 MB takes 0.1 s."""
    return sum(1 for _ in islice((start for start, _ in gif_blocks(data) if data[start] == ord(",")), most + 1))


def gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the blocks of a GIF begin and end: extensions ("!") and frames (","). The last may be cut short."""
    start = None
    try:
        at = 13 + _colours(data[10])
        while data[at] in b",!":
            start = at
            at += 11 + _colours(data[at + 9]) if data[at] == ord(",") else 2
            while length := data[at]:
                at += length + 1
            at += 1
            yield start, at
            start = None
    except IndexError:
        if start is not None:
            yield start, len(data)


def _colours(flags: int) -> int:
    """Return the length in bytes of a GIF's colour table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def jpeg_scans(data: bytes, most: int) -> int:
    """Count the scans of a JPEG, each of which is a pass over the image, up to `most` + 1."""
    scans, at = 0, 2
    try:
        while scans <= most:
            found = _MARKER.search(data, at)
            if found is None or data[found.start() + 1] == _END:
                break
            scans += data[found.start() + 1] == _START_OF_SCAN
            at = found.end() + int(struct.unpack_from(">H", data, found.end())[0])
    except struct.error:
        pass
    return scans


def without_texts(data: bytes) -> bytes:
    """Return a JPEG or PNG without texts and thumbnails; other files unchanged."""
    return _stripped(data, _JPEG_TEXTS, _PNG_PICTURE | _PNG_COLOURS | _PNG_ANIMATION)


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG or PNG without texts, thumbnails, profiles and animation; other files unchanged."""
    return _stripped(data, _JPEG_TEXTS | _JPEG_PROFILES, _PNG_PICTURE)


def _stripped(data: bytes, dropped: frozenset[int], kept: frozenset[bytes]) -> bytes:
    """Return a file without these segments of a JPEG, with only the critical and these other chunks of a PNG."""
    if data.startswith(b"\xff\xd8"):
        segments = [segment for marker, segment in jpeg_segments(data) if marker not in dropped]
        end = 2 + sum(len(segment) for _, segment in jpeg_segments(data))
        return data[:2] + b"".join(segments) + data[end:]
    if data.startswith(_PNG_SIGNATURE):
        chunks = (data[a - 8 : b + 4] for name, a, b in png_chunks(data) if name[:1].isupper() or name in kept)
        return _PNG_SIGNATURE + b"".join(chunks)
    return data


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker of each segment of a JPEG before its first scan, and the segment as it is in the file."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _START_OF_SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at:end]
        at = end


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk of a PNG, and where its content begins and ends. The last may be cut short."""
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        start = at + 8
        end = start + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : start], start, end
        at = end + 4


def png_chunk(data: bytes, wanted: bytes) -> bytes | None:
    """Return the content of a PNG's first chunk of that name before its pixels; else None."""
    for name, start, end in png_chunks(data):
        if name == wanted:
            return data[start:end]
        if name in (b"IDAT", b"IEND"):
            break
    return None


def jpeg_profile(data: bytes) -> bytes | None:
    """Return the ICC profile of a JPEG, in whatever order its parts are; None if there is none or a part is missing.

    A part may be there twice.
    """
    parts: dict[int, bytes] = {}
    total = 0
    for marker, segment in jpeg_segments(data):
        if marker in _JPEG_PROFILES and segment[4:16] == b"ICC_PROFILE\0" and len(segment) > 18:
            total = segment[17]
            parts.setdefault(segment[16], segment[18:])
    numbers = range(1, total + 1)
    return b"".join(parts[n] for n in numbers) if total and set(numbers) <= set(parts) else None


def gif_profile(data: bytes) -> bytes | None:
    """Return the ICC profile that a GIF contains before its first frame; else None."""
    for start, end in gif_blocks(data):
        if data[start] == ord(","):
            break
        if data[start + 1] == 0xFF and data[start + 3 : start + 14] == b"ICCRGBG1012":
            return b"".join(_sub_blocks(data[start + 14 : end])) or None
    return None


def _sub_blocks(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data) and (length := data[at]):
        yield data[at + 1 : at + 1 + length]
        at += 1 + length


def bmp_profile(data: bytes) -> bytes | None:
    """Return the ICC profile that a BMP with the fifth header contains; else None."""
    if len(data) < 138 or int.from_bytes(data[14:18], "little") < 124 or data[70:74] != b"DEBM":
        return None
    start, size = struct.unpack_from("<II", data, 126)
    return data[14 + start : 14 + start + size] or None
