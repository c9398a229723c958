"""The frames of a GIF, PNG or WebP animation, as a viewer shows them one after another.

Each frame is cut out of the file as a still image of its own, and decoded and composed here. Pillow would compose onto
a PNG's default image, which is not part of the animation, and onto a GIF's background colour, which no viewer shows.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from PIL import Image

from captioning.model.containers import gif_blocks, png_chunks, riff_chunks

CLEAR = (0, 0, 0, 0)


class Disposal(Enum):
    """What happens to a frame's rectangle before the next frame."""

    KEEP = 0
    CLEAR = 1
    RESTORE = 2


class Frame(NamedTuple):
    """One frame, cut out of its animation."""

    still: bytes  # a file of the animation's format
    at: tuple[int, int]  # its left and upper edge on the canvas
    size: tuple[int, int]
    blended: bool  # transparent pixels show what was there before
    disposal: Disposal


def shown_frames(
    data: bytes, form: str, canvas: tuple[int, int], decode: Callable[[bytes], Image.Image]
) -> Iterator[Image.Image]:
    """Yield what the canvas shows after each frame, as RGBA. The same image is changed for the next one.

    `decode` opens a still image. Exceptions that it raises for a damaged frame are passed on.
    """
    shown = Image.new("RGBA", canvas, CLEAR)
    for frame in _CUTTERS[form](data):
        layer = decode(frame.still).convert("RGBA")
        before = shown.copy() if frame.disposal is Disposal.RESTORE else None
        box = (*frame.at, frame.at[0] + layer.width, frame.at[1] + layer.height)
        if frame.blended:
            shown.alpha_composite(layer, frame.at)
        else:
            shown.paste(layer, box)
        yield shown
        if before is not None:
            shown = before
        elif frame.disposal is Disposal.CLEAR:
            shown.paste(CLEAR, box)


def covers_canvas(data: bytes, canvas: tuple[int, int]) -> bool:
    """Return whether the first frame of a GIF fills its canvas."""
    frame = next(_gif_frames(data), None)
    return frame is None or (frame.at == (0, 0) and frame.size == canvas)


def _gif_frames(data: bytes) -> Iterator[Frame]:
    table = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    control, disposal = b"", Disposal.KEEP
    for start, end in gif_blocks(data):
        if data[start] == ord("!"):
            if data[start + 1] == 0xF9:
                control = data[start:end]
                disposal = {2: Disposal.CLEAR, 3: Disposal.RESTORE}.get(control[3] >> 2 & 7, Disposal.KEEP)
            continue
        left, top, width, height = struct.unpack_from("<4H", data, start + 1)
        head = data[:6] + struct.pack("<HH", width, height) + data[10:table]
        still = head + control + b"," + struct.pack("<4H", 0, 0, width, height) + data[start + 9 : end] + b";"
        yield Frame(still, (left, top), (width, height), blended=True, disposal=disposal)
        control, disposal = b"", Disposal.KEEP


def _png_frames(data: bytes) -> Iterator[Frame]:
    kept: list[tuple[bytes, bytes]] = []  # of the head, for every frame
    control, pixels = b"", b""
    for name, start, end in png_chunks(data):
        content = data[start:end]
        if name in (b"PLTE", b"tRNS", b"sBIT"):
            kept.append((name, content))
        elif name == b"IHDR":
            head = content
        elif name == b"IDAT" and control:
            pixels += content
        elif name == b"fdAT":
            pixels += content[4:]
        elif name in (b"fcTL", b"IEND"):
            if control and pixels:
                yield _png_frame(head, kept, control, pixels)
            control, pixels = content, b""
    if control and pixels:
        yield _png_frame(head, kept, control, pixels)


def _png_frame(head: bytes, kept: list[tuple[bytes, bytes]], control: bytes, pixels: bytes) -> Frame:
    width, height, left, top = struct.unpack_from(">4I", control, 4)
    disposal, blend = control[24], control[25]
    parts = ((b"IHDR", control[4:12] + head[8:]), *kept, (b"IDAT", pixels), (b"IEND", b""))
    still = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )
    kind = {1: Disposal.CLEAR, 2: Disposal.RESTORE}.get(disposal, Disposal.KEEP)
    return Frame(still, (left, top), (width, height), blended=blend == 1, disposal=kind)


def _webp_frames(data: bytes) -> Iterator[Frame]:
    for name, start, end in riff_chunks(data):
        if name != b"ANMF" or end - start < 16:
            continue
        left, top, width, height = (int.from_bytes(data[at : at + 3], "little") for at in range(start, start + 12, 3))
        flags, body = data[start + 15], data[start + 16 : end]
        if body.startswith(b"ALPH"):
            extended = b"\x10\0\0\0" + data[start + 6 : start + 12]
            body = b"VP8X" + struct.pack("<I", len(extended)) + extended + body
        still = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
        disposal = Disposal.CLEAR if flags & 1 else Disposal.KEEP
        yield Frame(still, (2 * left, 2 * top), (width + 1, height + 1), blended=not flags & 2, disposal=disposal)


_CUTTERS: dict[str, Callable[[bytes], Iterator[Frame]]] = {
    "GIF": _gif_frames,
    "PNG": _png_frames,
    "WEBP": _webp_frames,
}
ANIMATED = frozenset(_CUTTERS)
"""The formats that may have frames, by Pillow's names."""
