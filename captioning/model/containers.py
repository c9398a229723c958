"""The container structure of image files: sizes, frames and metadata that are needed before an image is decoded.

Nothing is decoded here. Damage is not an error here either: parsing stops there, and Pillow reports what is wrong.
"""

import re
import struct

# Ends the entropy-coded data of a JPEG. FF00 and restart markers are part of that data.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END = 0xDA, 0xD9
# Without JFIF, Exif and Adobe, which change how the image looks.
_JPEG_METADATA = frozenset((*range(0xE2, 0xEE), 0xEF, 0xFE))
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


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
    kept, frames, at = [], 0, 12
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        end += end % 2
        if end > len(data):
            break
        frames += data[at : at + 4] == b"ANMF"
        if data[at : at + 4] != b"ANMF" or frames == 1:
            kept.append(data[at:end])
        at = end
    if not frames:
        return data, 1
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, frames


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def gif_frames(data: bytes, most: int) -> int:
    """Count the frames of a GIF, up to `most` + 1. A valid file of 256 MB takes 0.1 s."""
    frames = 0
    try:
        at = 13 + _colours(data[10])
        while frames <= most:
            if data[at] == ord(","):
                frames += 1
                at += 11 + _colours(data[at + 9])
            elif data[at] == ord("!"):
                at += 2
            else:
                break
            while length := data[at]:
                at += length + 1
            at += 1
    except IndexError:
        pass
    return frames


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


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG or PNG without texts, profiles and thumbnails; other files unchanged."""
    if data.startswith(_PNG_SIGNATURE):
        return _png_without_metadata(data)
    return _jpeg_without_metadata(data) if data.startswith(b"\xff\xd8") else data


def _png_without_metadata(data: bytes) -> bytes:
    kept, at = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if name[:1].isupper() or name in (b"tRNS", b"eXIf"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _jpeg_without_metadata(data: bytes) -> bytes:
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _START_OF_SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] not in _JPEG_METADATA:
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + data[at:]
