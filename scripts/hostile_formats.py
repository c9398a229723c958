"""Hostile files in the extra formats, for the corpus of `scripts.hostile_images`."""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from scripts.format_images import (
    SEED,
    box,
    dng,
    extra_bases,
    heic,
    heic_grid,
    psd,
    psd_resource,
    tiff_directory,
)
from scripts.scenes import saved, scene

Made = Iterator[tuple[str, str, bytes]]
"""Description, extension, content."""

_HUGE = 2**31 - 1


def extra_formats() -> Made:
    """Yield good and hostile files in the extra formats."""
    for base, (extension, data) in extra_bases().items():
        yield f"good {base}", extension, data
        yield f"good {base} named .jpg", "jpg", data
    yield from _heic()
    yield from _tiff()
    yield from _others()


def _heic() -> Made:
    yield "good HEIC that its container turns", "heic", heic(box(b"irot", b"\1"))
    yield "good HEIC in the colours of P3", "heic", heic(_coding(12))
    yield "good HEIC in unknown colours", "heic", heic(_coding(2))
    for width, height in ((_HUGE, _HUGE), (65535, 65535), (0, 0), (1, _HUGE)):
        yield f"HEIC that declares {width}x{height}", "heic", heic(size=(width, height))
        yield f"HEIC of tiles that declares {width}x{height}", "heic", heic_grid(2, 2, (width, height))
    yield "HEIC of 65536 tiles that are one", "heic", heic_grid(256, 256, (160 * 256, 120 * 256), tiles=1)
    yield "HEIC of 256 tiles", "heic", heic_grid(16, 16, (2560, 1920))
    yield "HEIC without a tile", "heic", heic_grid(2, 2, (320, 240), tiles=0)
    yield (
        "HEIC of itself",
        "heic",
        heic_grid(1, 1, (160, 120)).replace(struct.pack(">HHH", 1, 1, 2), struct.pack(">HHH", 1, 1, 1)),
    )
    yield (
        "HEIC with a hundred properties",
        "heic",
        heic(*(box(b"free", bytes([i])) for i in range(100))),
    )
    yield "HEIC with a profile bomb", "heic", heic(box(b"colr", b"prof" + bytes(9_000_000)))
    nested = b""
    for _ in range(3000):
        nested = box(b"meta", nested, version=0)
    yield "HEIC of boxes in boxes", "heic", box(b"ftyp", b"heic\0\0\0\0heic") + nested
    yield (
        "HEIC with a box that begins again",
        "heic",
        box(b"ftyp", b"heic\0\0\0\0heic") + struct.pack(">I4sQ", 1, b"meta", 2**64 - 1),
    )


def _coding(primaries: int) -> bytes:
    return box(b"colr", b"nclx" + struct.pack(">HHHB", primaries, 13, 6, 0x80))


def _tiff() -> Made:
    for width, height in ((_HUGE, 1), (65535, 65535), (30000, 30000), (0, 5)):
        yield f"TIFF that declares {width}x{height}", "tif", tiff(width, height, b"\xff" * 64)
    bomb = zlib.compress(bytes(200_000_000), 9)
    yield "TIFF that unpacks to 200 MB", "tif", tiff(64, 64, bomb, compression=8)
    yield "TIFF of 144 megapixels of nothing", "tif", tiff(12000, 12000, bomb, compression=8)
    yield "TIFF of tiles of one pixel", "tif", tiff(3000, 3000, bytes(64), tile=(1, 1), count=9_000_000)
    yield "TIFF of one huge tile", "tif", tiff(64, 64, bytes(64), tile=(_HUGE & ~15, _HUGE & ~15), compression=8)
    yield "TIFF with a million strips", "tif", tiff(10, 1_000_000, bytes(64), rows=1, count=1_000_000)
    yield "TIFF that declares strips without end", "tif", tiff(64, 64, bytes(64), count=2**32 - 1)
    whole = tiff(64, 64, bytes(64 * 64 * 3))
    after = 8 + 2 + 12 * struct.unpack_from("<H", whole, 8)[0]
    yield "TIFF with a loop of pages", "tif", whole[:after] + struct.pack("<I", 8) + whole[after + 4 :]
    yield "TIFF that begins in its own header", "tif", b"II*\0\0\0\0\0" + bytes(100)
    yield "TIFF with a deep chain of pages", "tif", _chain(5000)
    for compression in (1, 2, 3, 4, 5, 6, 7, 8, 32773, 34661, 34676, 34712, 34887, 34925, 50000, 50001, 52546):
        noise = bytes((i * 89 + compression) % 256 for i in range(3000))
        yield f"TIFF of noise in coding {compression}", "tif", tiff(64, 64, noise, compression=compression)
    for photometric in (0, 3, 4, 5, 6, 8, 9, 10, 32844, 32845):
        yield f"TIFF in colours {photometric}", "tif", tiff(64, 64, bytes(64 * 64 * 3), photometric=photometric)


def tiff(
    width: int,
    height: int,
    data: bytes,
    *,
    compression: int = 1,
    photometric: int = 2,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    count: int = 1,
) -> bytes:
    """Return a TIFF with one strip or tile of data, which may declare any size and any number of strips or tiles."""

    def directory(at: int) -> bytes:
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, struct.pack("<3H", 8, 8, 8)),
            (259, 3, 1, compression), (262, 3, 1, photometric), (277, 3, 1, 3),
        ]  # fmt: skip
        if tile is None:
            entries += [(273, 4, count, at), (278, 4, 1, rows or height), (279, 4, count, len(data))]
        else:
            entries += [(322, 4, 1, tile[0]), (323, 4, 1, tile[1]), (324, 4, count, at), (325, 4, count, len(data))]
        return tiff_directory(entries, 8)

    return b"II*\0\x08\0\0\0" + directory(8 + len(directory(0))) + data


def _chain(pages: int) -> bytes:
    whole = bytearray(tiff(64, 64, bytes(64 * 64 * 3)))
    last = 8 + 2 + 12 * struct.unpack_from("<H", whole, 8)[0]
    for _ in range(pages):
        struct.pack_into("<I", whole, last, len(whole))
        last = len(whole) + 2
        whole += bytes(6)
    return bytes(whole)


def _others() -> Made:
    image = scene(SEED)
    sized = saved(image, "JPEG2000")
    at = sized.index(b"\xff\x51") + 6  # of the size in the header of the codestream
    for width, height in ((_HUGE, _HUGE), (65000, 65000), (0, 0)):
        declared = struct.pack(">II", width, height)
        lied = sized[:at] + declared + sized[at + 8 :]
        yield f"JPEG 2000 that declares {width}x{height} inside", "jp2", lied
        outside = lied.index(b"ihdr") + 4
        lied = lied[:outside] + struct.pack(">II", height, width) + lied[outside + 8 :]
        yield f"JPEG 2000 that declares {width}x{height}", "jp2", lied
        flat = psd(image)
        yield f"Photoshop that declares {width}x{height}", "psd", flat[:14] + declared + flat[22:]
    tiles = sized[: at + 16] + struct.pack(">II", 1, 1) + sized[at + 24 :]
    yield "JPEG 2000 in tiles of one pixel", "jp2", tiles
    yield "Photoshop of 16 bits", "psd", psd(image)[:22] + b"\0\x10" + psd(image)[24:]
    yield "good Photoshop with a selection", "psd", psd(image, alpha=Image.new("L", image.size))
    missing = psd_resource(1057, struct.pack(">I", 1) + bytes(9))
    yield "Photoshop without the flat image", "psd", psd(image, resources=missing)
    yield "Photoshop with resources without end", "psd", psd(image)[:30] + b"\x7f\xff\xff\xff" + psd(image)[34:]
    yield "Photoshop of 56 channels", "psd", psd(image)[:12] + struct.pack(">H", 56) + psd(image)[14:]
    preview = saved(image, "JPEG")
    yield "good DNG that is turned", "dng", dng(preview, image.size, orientation=6)
    yield "DNG with a preview cut short", "dng", dng(preview[: len(preview) // 2], image.size)
    yield "DNG with a preview that is no JPEG", "dng", dng(b"nothing" * 100, image.size)
    yield "DNG with a preview of another size", "dng", dng(preview, (_HUGE, _HUGE))
    yield "DNG without a preview", "dng", dng(b"", (0, 0))
    yield "JPEG XL of a huge size", "jxl", b"\xff\x0a" + b"\xff" * 200
