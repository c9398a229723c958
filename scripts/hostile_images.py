"""Write a corpus of hostile files, with some good images among them: python -m scripts.hostile_images FOLDER

Files are truncated, damaged, claim a wrong size, decompress to gigabytes, combine two formats, are not images at all,
or have names that break tables. The corpus is the same every time. FOLDER.json describes each file; a description that
begins with "good" is of a file that must get a caption, every other file gets a caption or a reason.
"""

import json
import os
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageCms

from scripts.format_images import extra_bases
from scripts.hostile_formats import extra_formats
from scripts.scenes import saved, scene

Made = Iterator[tuple[str, str, bytes]]
"""Description, extension, content."""


def make_corpus(folder: Path) -> dict[str, str]:
    """Fill a new folder; return the description of each entry by its name, as `os.fsdecode` returns it."""
    folder.mkdir(parents=True)
    descriptions: dict[str, str] = {}
    groups = (
        _good,
        _truncated,
        _damaged,
        _other_files,
        _polyglots,
        _bombs,
        _jpegs,
        _pngs,
        _gifs,
        _bmps,
        _webps,
        _as_seen,
        extra_formats,
    )
    number = 0
    for group in groups:
        for description, extension, data in group():
            number += 1
            slug = "".join(c if c.isalnum() else "-" for c in description)
            name = f"{number:03d}-{slug[:60]}.{extension}"
            (folder / name).write_bytes(data)
            descriptions[name] = description
    return descriptions | _hostile_names(folder) | _irregular_files(folder)


# -- good images --


def _animated(format_name: str, **options: object) -> bytes:
    return saved(scene(1), format_name, save_all=True, append_images=[scene(2), scene(3)], duration=50, **options)


def bases() -> dict[str, tuple[str, bytes]]:
    """Return one small good file of each format: its extension and content by the name of the format."""
    plain = scene()
    return {
        "JPEG": ("jpg", saved(plain, "JPEG", quality=80)),
        "progressive JPEG": ("jpg", saved(plain, "JPEG", progressive=True)),
        "CMYK JPEG": ("jpeg", saved(plain.convert("CMYK"), "JPEG")),
        "camera pair": ("mpo", saved(plain, "MPO", save_all=True, append_images=[scene(1)])),
        "PNG": ("png", saved(plain, "PNG")),
        "palette PNG": ("png", saved(plain.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=3)),
        "interlaced PNG": ("png", interlaced_png(21, 13)),
        "animated PNG": ("png", _animated("PNG")),
        "GIF": ("gif", saved(plain, "GIF")),
        "animated GIF": ("gif", _animated("GIF")),
        "WebP": ("webp", saved(plain, "WEBP")),
        "lossless WebP": ("webp", saved(plain.convert("RGBA"), "WEBP", lossless=True)),
        "animated WebP": ("webp", _animated("WEBP")),
        "BMP": ("bmp", saved(plain, "BMP")),
        "run-length BMP": ("bmp", bmp(160, 120, 8, bytes([160, 7, 0, 0]) * 120 + b"\0\1", compression=1)),
    }


def _good() -> Made:
    for base, (extension, data) in bases().items():
        yield f"good {base}", extension, data
    whole = bases()
    for base, extension in (("JPEG", "png"), ("PNG", "jpg"), ("GIF", "webp"), ("WebP", "bmp"), ("BMP", "tif")):
        yield f"good {base} named .{extension}", extension, whole[base][1]
    yield "good 16-bit grey PNG", "png", png(4, 4, 16, 0, b"".join(b"\0" + bytes(range(8)) for _ in range(4)))
    yield "good JPEG that its Exif data rotates", "jpg", saved(scene(), "JPEG", exif=_exif(6))


# -- the same images, truncated and damaged --


def _truncated() -> Made:
    for base, (extension, data) in (bases() | extra_bases()).items():
        for where in (1, 12, 26, len(data) // 10, len(data) // 2, len(data) * 9 // 10, len(data) - 2):
            yield f"{base} truncated at byte {where}", extension, data[:where]


def _damaged() -> Made:
    for base, (extension, data) in (bases() | extra_bases()).items():
        chance = random.Random(base)
        for part, low, high in (("header", 4, 64), ("header", 4, 64), ("header", 4, 200), ("body", 64, len(data))):
            damaged = bytearray(data)
            for _ in range(8):
                damaged[chance.randrange(low, min(high, len(data)))] = chance.choice((0, 255, chance.randrange(256)))
            yield f"{base} with damage in its {part}", extension, bytes(damaged)


# -- files that are not images, or not only images --


def _other_files() -> Made:
    noise = random.Random(5).randbytes(4000)
    others = {
        "empty file": b"",
        "one line feed": b"\n",
        "text": b"This is not an image.\n" * 50,
        "UTF-16 text": "\ufeffThis is not an image.\n".encode("utf-16-le") * 50,
        "big-endian UTF-16 HTML": "\ufeff<!DOCTYPE html><p>nothing".encode("utf-16-be"),
        "UTF-32 HTML": "\ufeff<!DOCTYPE html><p>nothing".encode("utf-32-le"),
        "HTML": b"<!DOCTYPE html><script>alert(1)</script>",
        "zeros": bytes(10_000),
        "ones": b"\xff" * 10_000,
        "noise": noise,
        "PDF": b"%PDF-1.7\n" + noise,
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "XML with entities": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>",
        "TIFF": b"II*\x00\x08\x00\x00\x00\xff\xff" + noise,
        "big-endian TIFF": b"MM\x00*\x00\x00\x00\x08\xff\xff" + noise,
        "BigTIFF": b"II+\x00\x08\x00\x00\x00" + noise,
        "Photoshop": b"8BPS\x00\x01" + noise,
        "JPEG XL": b"\xff\x0a" + noise,
        "JPEG XL container": b"\x00\x00\x00\x0cJXL \r\n\x87\n" + noise,
        "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + noise,
        "HEIC": b"\x00\x00\x00\x18ftypheic" + noise,
        "AVIF": b"\x00\x00\x00\x18ftypavif" + noise,
        "Canon RAW": b"\x00\x00\x00\x18ftypcrx " + noise,
        "MP4": b"\x00\x00\x00\x18ftypmp42" + noise,
        "ZIP": b"PK\x03\x04" + noise,
        "program": b"\x7fELF\x02\x01\x01" + noise,
        "icon": b"\x00\x00\x01\x00\x01\x00" + noise,
        "FITS": b"SIMPLE  =                    T" + noise,
        "database": b"SQLite format 3\x00" + noise,
    }
    for description, data in others.items():
        yield description, "jpg", data
    for base, (extension, data) in bases().items():
        yield f"{base}: only its signature", extension, data[:8]


def _polyglots() -> Made:
    whole = {base: data for base, (_, data) in bases().items()}
    jpeg, page = whole["JPEG"], b"<html><script>alert(1)</script></html>"
    yield "good JPEG followed by a ZIP", "jpg", jpeg + b"PK\x03\x04" + bytes(200) + b"PK\x05\x06" + bytes(18)
    yield "good JPEG followed by a video", "jpg", jpeg + b"\x00\x00\x00\x18ftypmp42" + b"\xff\xda\x00\x08" * 5000
    yield "good JPEG with an HTML page as its comment", "jpg", _after_start(jpeg, _segment(0xFE, page))
    yield "good JPEG with a PDF as its comment", "jpg", _after_start(jpeg, _segment(0xFE, b"%PDF-1.7\n1 0 obj\n"))
    yield "good JPEG followed by a PNG", "jpg", jpeg + whole["PNG"]
    yield "good PNG followed by an HTML page", "png", whole["PNG"] + page
    yield "good PNG with an HTML page as a text", "png", _png_with(_chunk(b"tEXt", b"Comment\0" + page))
    yield "good PNG followed by a JPEG", "png", whole["PNG"] + jpeg
    yield "good GIF followed by a script", "gif", whole["GIF"] + b"/*" + page + b"*/alert(1)"
    yield "GIF that is also a script", "gif", b"GIF89a/*" + whole["GIF"][8:] + b"*/=1;alert(1)"
    yield "two GIFs in one file", "gif", whole["GIF"] + whole["animated GIF"]
    yield "BMP that is also a script", "bmp", b"BM/*" + whole["BMP"][4:] + b"*/=1;alert(1)"
    yield "good WebP followed by an HTML page", "webp", whole["WebP"] + page
    yield "header of a PNG, body of a JPEG", "png", whole["PNG"][:33] + jpeg[20:]
    yield "header of a JPEG, body of a GIF", "jpg", jpeg[:200] + whole["GIF"][13:]
    yield "WebP that is labelled as audio", "webp", b"RIFF\x24\x00\x00\x00WAVE" + whole["WebP"][12:]


# -- small files that decode to much --


def _bombs() -> Made:
    yield "PNG that claims 30000x30000", "png", png(30_000, 30_000, 8, 2, bytes(1000))
    yield "PNG that claims 65535x65535", "png", png(65_535, 65_535, 8, 6, bytes(1000))
    yield "PNG that claims 2147483647x2147483647", "png", png(2**31 - 1, 2**31 - 1, 8, 2, bytes(1000))
    yield "PNG with a side of 100000", "png", png(100_000, 8, 1, 0, bytes(12_501) * 8)
    yield "good PNG of 121 megapixels in 15 kB", "png", png(11_000, 11_000, 1, 0, bytes(1376) * 11_000)
    yield "PNG with text that decompresses to 64 MB", "png", _png_with(_chunk(b"zTXt", b"a\0\0" + _deflated(64)))
    yield (
        "PNG with international text that decompresses to 64 MB",
        "png",
        _png_with(_chunk(b"iTXt", b"a\0\1\0\0\0" + _deflated(64))),
    )
    yield (
        "PNG with a colour profile that decompresses to 64 MB",
        "png",
        _png_with(_chunk(b"iCCP", b"a\0\0" + _deflated(64))),
    )
    yield "PNG with ten texts of 10 MB", "png", _png_with(_chunk(b"zTXt", b"a\0\0" + _deflated(10)) * 10)
    yield "PNG with 20000 texts", "png", _png_with(_chunk(b"tEXt", b"a\0b") * 20_000)
    yield "good PNG with a text of 2 MB", "png", _png_with(_chunk(b"tEXt", b"workflow\0" + b"{}" * 1_000_000))
    yield "good PNG with a compressed text of 2 MB", "png", _png_with(_chunk(b"zTXt", b"workflow\0\0" + _deflated(2)))
    yield "animated PNG of 2147483647 frames", "png", _png_with(_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    yield "GIF with a screen of 65535x65535", "gif", gif(1, screen=(65_535, 65_535))
    yield "GIF with a frame beyond its screen", "gif", gif(1, screen=(8, 8), position=(65_000, 65_000))
    yield "GIF of 100000 frames", "gif", gif(100_000)
    yield "GIF of a million empty comments", "gif", gif(1, before=b"!\xfe\0" * 1_000_000)
    yield "GIF with a comment in two million parts", "gif", gif(1, before=b"!\xfe" + b"\1a" * 2_000_000 + b"\0")
    yield "BMP that claims 65000x65000", "bmp", bmp(65_000, 65_000, 24, bytes(1000))
    yield "run-length BMP that claims 60000x60000", "bmp", bmp(60_000, 60_000, 8, b"\xff\x00" * 500, compression=1)
    yield "run-length BMP of 100 megapixels", "bmp", bmp(10_000, 10_000, 8, b"\xff\x07" * 393_000, compression=1)
    yield "WebP with a canvas of 16777216x255", "webp", webp_canvas(2**24, 255, b"")
    yield "WebP with a canvas of 16384x16384", "webp", webp_canvas(16_384, 16_384, webp_frames(2))
    yield "animated WebP with a canvas of 65536x65535", "webp", webp_canvas(65_536, 65_535, webp_frames(2))
    yield "animated WebP of 20000 frames", "webp", webp_canvas(64, 64, webp_frames(20_000))
    yield (
        "lossless WebP that claims 16384x16384",
        "webp",
        _riff(_riff_chunk(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(40))),
    )
    yield "JPEG that claims 65500x65500", "jpg", _resized(bases()["JPEG"][1], 65_500, 65_500)
    yield "JPEG that claims 30000x30000", "jpg", _resized(bases()["JPEG"][1], 30_000, 30_000)
    yield "progressive JPEG that claims 20000x20000", "jpg", _resized(bases()["progressive JPEG"][1], 20_000, 20_000)
    yield "good JPEG of 500 scans", "jpg", _many_scans(bases()["progressive JPEG"][1], 500)
    yield (
        "JPEG of 500 scans of 121 megapixels",
        "jpg",
        _resized(_many_scans(bases()["progressive JPEG"][1], 500), 11_000, 11_000),
    )
    yield "good JPEG of 65000 by 2", "jpg", saved(scene(size=(65_000, 2)), "JPEG")
    yield "camera pair of a billion images", "mpo", _many_images(bases()["camera pair"][1])


def _deflated(megabytes: int) -> bytes:
    """Return zeros as a zlib stream."""
    return zlib.compress(bytes(megabytes << 20), 9)


# -- structures that are wrong in one place --


def _jpegs() -> Made:
    whole = bases()["JPEG"][1]
    loop = b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"
    many = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\3\xff\xff\xff\xff\0\0\0\x08" * 5000
    profile = b"ICC_PROFILE\0"
    head = whole.index(b"\xff\xc0")
    scan = whole.index(b"\xff\xda")

    def changed(at: int, new: bytes) -> bytes:
        return whole[: head + at] + new + whole[head + at + len(new) :]

    yield "good JPEG with a loop in its Exif data", "jpg", _after_start(whole, _segment(0xE1, loop))
    yield "JPEG with 65535 Exif tags", "jpg", _after_start(whole, _segment(0xE1, many))
    yield "JPEG with 60 Exif segments", "jpg", _after_start(whole, _segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 60)
    for turn in (0, 9, 255, 65_535):
        yield f"good JPEG with orientation {turn}", "jpg", saved(scene(), "JPEG", exif=_exif(turn))
    yield "good JPEG with garbage as its profile", "jpg", saved(scene(), "JPEG", icc_profile=b"garbage" * 40)
    yield "good JPEG with a profile of 300 kB", "jpg", saved(scene(), "JPEG", icc_profile=bytes(300_000))
    yield "JPEG with a truncated profile", "jpg", _after_start(whole, _segment(0xE2, profile))
    yield "JPEG with one part of a profile", "jpg", _after_start(whole, _segment(0xE2, profile + b"\7\xff" + bytes(9)))
    yield "JPEG of height 0", "jpg", changed(5, b"\0\0")
    yield "JPEG of width 0", "jpg", changed(7, b"\0\0")
    yield "JPEG of 12 bits", "jpg", changed(4, b"\x0c")
    yield "JPEG of 0 components", "jpg", changed(9, b"\0")
    yield "JPEG of two components", "jpg", changed(9, b"\2")
    yield "JPEG of 255 components", "jpg", changed(9, b"\xff")
    yield "JPEG with a sampling of 0", "jpg", changed(11, b"\0")
    yield "JPEG with a sampling of 15", "jpg", changed(11, b"\xff")
    yield "JPEG with a missing table", "jpg", changed(12, b"\3")
    for marker, coding in (
        (0xC3, "lossless"),
        (0xC5, "differential"),
        (0xC9, "arithmetic"),
        (0xCB, "arithmetic lossless"),
    ):
        yield f"JPEG that claims {coding} coding", "jpg", changed(1, bytes([marker]))
    yield "JPEG with two frame headers", "jpg", whole[:head] + whole[head : head + 19] * 2 + whole[head + 19 :]
    yield "JPEG without a frame header", "jpg", whole[:head] + whole[head + 19 :]
    yield "JPEG without tables", "jpg", whole[:2] + whole[head : head + 19] + whole[scan:]
    yield "JPEG with an empty scan", "jpg", whole[: scan + 14] + b"\xff\xd9"
    yield "JPEG with only restart markers", "jpg", whole[: scan + 14] + b"\xff\xd0\xff\xd5" * 2000 + b"\xff\xd9"
    yield "JPEG with a segment of length 0", "jpg", _after_start(whole, b"\xff\xe5\0\0")
    yield "JPEG with a segment of length 1", "jpg", _after_start(whole, b"\xff\xe5\0\1")
    yield "JPEG with a segment longer than the file", "jpg", whole[:2] + b"\xff\xe5\xff\xff" + whole[2:]
    yield "JPEG with a megabyte of fill bytes", "jpg", _after_start(whole, b"\xff" * 1_000_000)
    yield "JPEG without an end", "jpg", whole[:-2] + random.Random(6).randbytes(50_000).replace(b"\xff", b"\xfe")


def _pngs() -> Made:
    row = b"\0" + bytes(range(24))
    raw = row * 8
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)

    def of(*parts: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    def headed(**changed: int) -> bytes:
        fields = {
            "width": 8,
            "height": 8,
            "depth": 8,
            "colour": 2,
            "compression": 0,
            "filter": 0,
            "interlace": 0,
        } | changed
        return of(_chunk(b"IHDR", struct.pack(">IIBBBBB", *fields.values())), body, end)

    body, end, first = _chunk(b"IDAT", zlib.compress(raw)), _chunk(b"IEND", b""), _chunk(b"IHDR", head)
    for field, values in {
        "width": (0, 7, 9, 2**32 - 1),
        "height": (0, 7, 9, 2**31),
        "depth": (0, 3, 16, 255),
        "colour": (1, 3, 5, 6),
        "compression": (9,),
        "filter": (9,),
        "interlace": (1, 7),
    }.items():
        for value in values:
            yield f"PNG with {field} {value}", "png", headed(**{field: value})
    wrong = b"\0\0\0\0"
    yield "PNG with a wrong checksum in its header", "png", of(first[:-4] + wrong, body, end)
    yield "PNG with a wrong checksum in its data", "png", of(first, body[:-4] + wrong, end)
    yield "PNG with a wrong checksum in a text", "png", of(first, _chunk(b"tEXt", b"a\0b")[:-4] + wrong, body, end)
    yield "PNG without an end", "png", of(first, body)
    yield "PNG without data", "png", of(first, end)
    yield "PNG with empty data", "png", of(first, _chunk(b"IDAT", b""), end)
    yield "PNG with two headers", "png", of(first, first, body, end)
    yield "PNG without a header", "png", of(body, end)
    yield "PNG of noise", "png", of(first, _chunk(b"IDAT", random.Random(7).randbytes(300)), end)
    yield "PNG with one row too few", "png", of(first, _chunk(b"IDAT", zlib.compress(row * 7)), end)
    yield "PNG with too many rows", "png", of(first, _chunk(b"IDAT", zlib.compress(row * 90_000)), end)
    yield "PNG with a wrong filter", "png", of(first, _chunk(b"IDAT", zlib.compress(b"\x09" + raw[1:])), end)
    packed = zlib.compress(raw)
    yield "good PNG with one byte per chunk", "png", of(first, *(_chunk(b"IDAT", bytes([b])) for b in packed), end)
    yield (
        "PNG with a wrong checksum in its compressed data",
        "png",
        of(first, _chunk(b"IDAT", packed[:-4] + wrong), end),
    )
    yield "PNG with a chunk of 2 GB", "png", of(first, b"\x7f\xff\xff\xfftEXt", body, end)
    yield "PNG with a chunk of 4 GB", "png", of(first, b"\xff\xff\xff\xfftEXt", body, end)
    yield "PNG with a chunk without a name", "png", of(first, b"\0\0\0\0\0\0\0\0\0\0\0\0", body, end)
    palette = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    indexed = _chunk(b"IDAT", zlib.compress((b"\0" + b"\xff" * 8) * 8))
    yield "PNG without its palette", "png", of(_chunk(b"IHDR", palette), indexed, end)
    yield (
        "PNG with a palette of 1 colour",
        "png",
        of(_chunk(b"IHDR", palette), _chunk(b"PLTE", b"\1\2\3"), indexed, end),
    )
    yield (
        "PNG with a palette of 400 colours",
        "png",
        of(_chunk(b"IHDR", palette), _chunk(b"PLTE", bytes(1200)), indexed, end),
    )
    yield "PNG with a transparency chunk that is too long", "png", of(first, _chunk(b"tRNS", bytes(3000)), body, end)
    yield "PNG with a transparency chunk that is too short", "png", of(first, _chunk(b"tRNS", b"\0"), body, end)
    yield "PNG with an empty Exif chunk", "png", of(first, _chunk(b"eXIf", b""), body, end)


def _gifs() -> Made:
    yield "good GIF of one frame", "gif", gif(1)
    yield "GIF of 0 frames", "gif", gif(0)
    yield "GIF with a screen of 0x0", "gif", gif(1, screen=(0, 0))
    yield "GIF with a code size of 0", "gif", gif(1, coded=b"\x00\x02\x44\x01\x00")
    yield "GIF with a code size of 200", "gif", gif(1, coded=b"\xc8\x02\x44\x01\x00")
    yield "GIF of noise", "gif", gif(1, coded=b"\x08\xff" + random.Random(8).randbytes(255) + b"\0")
    yield "GIF without an end of its data", "gif", gif(1, coded=b"\x02" + b"\x01\x44" * 5000)
    yield "GIF with an unknown block", "gif", gif(1, before=b"?\1\2\3\0")
    yield "GIF with a control block of length 0", "gif", gif(1, before=b"!\xf9\0")
    yield "good GIF with a damaged second frame", "gif", gif(1)[:-1] + b",\xff\xff\xff"
    yield "good GIF with an endless second frame", "gif", gif(1)[:-1] + gif(1)[19:-1] + b"\xff" * 3000


def _bmps() -> Made:
    rows = bytes(range(240)) * 8
    yield "good BMP with its top row first", "bmp", bmp(80, -8, 24, rows)
    yield "good BMP of OS/2", "bmp", b"BM" + struct.pack("<IIIIHHHH", 26 + 1920, 0, 26, 12, 80, 8, 1, 24) + rows
    yield "BMP with the smallest negative height", "bmp", bmp(80, -(2**31), 24, rows)
    yield "BMP of a negative width", "bmp", bmp(-80, 8, 24, rows)
    yield "BMP of 0x0", "bmp", bmp(0, 0, 24, rows)
    for bits in (0, 3, 7, 64, 65_535):
        yield f"BMP of {bits} bits", "bmp", bmp(80, 8, bits, rows)
    yield "BMP with an unknown compression", "bmp", bmp(80, 8, 24, rows, compression=99)
    yield "BMP with empty colour masks", "bmp", bmp(40, 8, 32, bytes(12) + rows, compression=3)
    yield "BMP with data that begin after its end", "bmp", bmp(80, 8, 24, rows, offset=2**31)
    yield "BMP with four billion colours", "bmp", bmp(80, 8, 8, rows, colours=2**32 - 1)
    yield "run-length BMP of jumps only", "bmp", bmp(5000, 5000, 8, b"\0\2\xff\xff" * 5000, compression=1)
    yield "run-length BMP without an end", "bmp", bmp(160, 120, 8, b"\xff\x07" * 3, compression=1)
    yield "run-length BMP that overruns", "bmp", bmp(8, 8, 8, b"\xff\x07" * 9000, compression=1)
    yield "run-length BMP that ends inside a run", "bmp", bmp(160, 120, 8, b"\0\xff\1\2", compression=1)


def _webps() -> Made:
    whole = bases()["WebP"][1]
    for size in (0, 7, 2**31, 2**32 - 1):
        yield f"WebP that claims {size} bytes", "webp", whole[:4] + struct.pack("<I", size) + whole[8:]
    yield "WebP with a canvas and no frame", "webp", webp_canvas(64, 64, b"")
    yield "WebP with a frame beyond its canvas", "webp", webp_canvas(64, 64, webp_frames(1, at=5000))
    yield (
        "WebP with noise as its transparency",
        "webp",
        _riff(
            _riff_chunk(b"VP8X", b"\x10\0\0\0" + _uint24(159) + _uint24(119)),
            _riff_chunk(b"ALPH", b"\1" + bytes(90)),
            whole[12:],
        ),
    )
    yield "WebP with a chunk of 4 GB", "webp", _riff(b"VP8 \xff\xff\xff\xff", whole[20:])
    yield "WebP with 5000 unknown chunks", "webp", webp_canvas(64, 64, _riff_chunk(b"ABCD", b"x") * 5000)


# -- what a viewer shows in an unusual way, and files with the name of an image --


def _as_seen() -> Made:
    plain = scene()
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    srgb = made[:24] + bytes(12) + made[36:]  # without the time at which it was made
    for what, profile in (("a profile", srgb), ("half a profile", srgb[: len(srgb) // 2]), ("an empty profile", b"")):
        for form, extension in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
            yield f"good {form} with {what}", extension, saved(plain, form, icc_profile=profile)
    yield "good CMYK JPEG with an RGB profile", "jpg", saved(plain.convert("CMYK"), "JPEG", icc_profile=srgb)
    yield "good BMP with alpha 0", "bmp", bmp(80, 8, 32, b"\1\2\3\0" * 640)
    blank = Image.new("RGB", plain.size)
    for form in ("GIF", "PNG", "WEBP"):
        whole = saved(blank, form, save_all=True, append_images=[plain, scene(2)], duration=50)
        yield f"good animated {form} with a black first frame", form.lower(), whole
    for depth in (1, 2, 4, 8, 16):
        raw = (b"\0" + bytes(range(depth))) * 8
        yield (
            f"good {depth}-bit grey PNG with a colour key",
            "png",
            with_chunks(png(8, 8, depth, 0, raw), (b"tRNS", b"\0\1")),
        )
    for bits in (10, 12):
        raw = b"".join(b"\0" + struct.pack(">8H", *(x << bits - 3 for x in range(8))) for _ in range(8))
        yield f"good 16-bit grey PNG of {bits} bits", "png", png(8, 8, 16, 0, raw)
    yield from _odd_exif()
    yield "bitmap without a file header", "dib", saved(plain, "BMP")[14:]
    for maker, head in (("Fujifilm", b"FUJIFILMCCD-RAW "), ("Olympus", b"IIRO"), ("Panasonic", b"IIU\0")):
        yield f"RAW of {maker}", "jpg", head + bytes(400)


def _odd_exif() -> Made:
    whole = bases()["JPEG"][1]
    empty, turned = _segment(0xE1, b"Exif\0\0"), _segment(0xE1, _turned(3, 1, b"\6\0\0\0"))
    for what, blocks in (
        ("two Exif blocks, the first empty", empty + turned),
        ("two Exif blocks, the second empty", turned + empty),
        ("two Exif blocks that disagree", turned + _segment(0xE1, _turned(3, 1, b"\3\0\0\0"))),
        ("its orientation as a byte", _segment(0xE1, _turned(1, 1, b"\6\0\0\0"))),
        ("its orientation as a long number", _segment(0xE1, _turned(4, 1, b"\6\0\0\0"))),
        ("its orientation as a text", _segment(0xE1, _turned(2, 2, b"6\0\0\0"))),
        ("its orientation twice", _segment(0xE1, _turned(3, 2, b"\6\0\3\0"))),
        ("its orientation as a fraction that is not there", _segment(0xE1, _turned(5, 1, b"\xff\xff\xff\x7f"))),
        ("an orientation of an unknown type", _segment(0xE1, _turned(99, 1, b"\6\0\0\0"))),
    ):
        yield f"good JPEG with {what}", "jpg", _after_start(whole, blocks)
    yield "good PNG that its Exif data rotates", "png", _png_with(_chunk(b"eXIf", _turned(3, 1, b"\6\0\0\0")[6:]))
    yield "good WebP that its Exif data rotates", "webp", saved(scene(), "WEBP", exif=_exif(6))


def _turned(kind: int, number: int, value: bytes) -> bytes:
    """Return an Exif block that has an orientation only, of this type."""
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x0112, kind, number) + value + bytes(4)


# -- names and irregular files --


def _hostile_names(folder: Path) -> dict[str, str]:
    """Write good images with names that shells, tables, spreadsheets, web pages and terminals interpret."""
    names: tuple[bytes, ...] = (
        b"=HYPERLINK(\"http://x\",\"y\").jpg", b"=cmd|' !A0.jpg", b"+1+1.jpg", b"-2+3.jpg", b"@SUM(A1).jpg",
        b"\t=1.jpg", b"\r=1.jpg", b"line\nfeed.jpg", b"\n.jpg", b"carriage\rreturn.jpg", b"a,b;c\td.jpg",
        b'quote".jpg', b"quote'.jpg", b"\"\"\".jpg", b"esc\x1b[2J\x1b[1;31mred.jpg", b"title\x1b]0;owned\x07.jpg",
        b"bell\x07.jpg", b"backspace\x08\x08\x08.jpg", b"delete\x7f.jpg", "c1\u009b2J.jpg".encode(),
        "\u202egnp.exe.jpg".encode(), "bidi\u2066x\u2069.jpg".encode(), "zero\u200bwidth\ufeff.jpg".encode(),
        "line\u2028separator.jpg".encode(), "za\u0301\u0316\u0327lgo.jpg".encode(), "Ünïcödé 🐕.jpg".encode(),
        b"<img src=x onerror=alert(1)>.jpg", b"<script>alert(1)<script>.jpg", b"&lt;b&gt;.jpg", b"%41%00%2e%2e%2f.jpg",
        b"%s%n%d.jpg", b"{{7*7}}${7*7}.jpg", b"[bold red]markup[ bold].jpg", b"$(touch owned).jpg",
        b"`id`;id&&id|id.jpg", b"back\\slash\\..\\x.jpg", b"--help.jpg", b"-rf.jpg",
        b"~.jpg", b" space .jpg", b"CON.jpg", b"two..dots.jpg",
        b"caf\xe9.jpg", b"\xff\xfe.jpg", b"\xc0\xaf.jpg", b"\xed\xa0\x80.jpg", b"x" * 250 + b".jpg",
        b"UPPER.JPG", b"'; DROP TABLE files; --.jpg",
    )  # fmt: skip
    descriptions = {}
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), name)  # noqa: PTH118, pathlib has no bytes
        try:
            with open(path, "wb") as file:  # noqa: PTH123, pathlib has no bytes
                file.write(saved(scene(100 + number, (64, 48)), "JPEG"))
        except OSError:  # a file system that accepts only UTF-8
            continue
        descriptions[os.fsdecode(name)] = "good JPEG with a hostile name"
    return descriptions


def _irregular_files(folder: Path) -> dict[str, str]:
    """Create sparse files, a deep folder, a pipe, links and a folder with the name of an image."""
    descriptions = {}
    for name, size in (
        ("sparse-terabyte.jpg", 10**12),
        ("sparse-300MB.png", 300_000_000),
        ("sparse-90MB.bmp", 90_000_000),
    ):
        try:
            with (folder / name).open("wb") as file:
                file.write(b"BM")
                file.truncate(size)
        except OSError:  # a file system without such large files
            (folder / name).unlink()
            continue
        descriptions[name] = f"{size} bytes, nearly all of them holes"
    deep = folder.joinpath(*["deep"] * 60)
    deep.mkdir(parents=True)
    (deep / "down.jpg").write_bytes(saved(scene(99), "JPEG"))
    descriptions[str((deep / "down.jpg").relative_to(folder))] = "good JPEG below 60 folders"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "passwd.jpg").symlink_to("/etc/passwd")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "ring.jpg").symlink_to("ring.jpg")
    (folder / "up").symlink_to("..")
    (folder / "folder.jpg").mkdir()
    skipped = ("pipe.jpg", "passwd.jpg", "zero.jpg", "ring.jpg", "up", "folder.jpg")
    return descriptions | dict.fromkeys(skipped, "skipped: not a regular file")


# -- writing formats --


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *, interlace: int = 0) -> bytes:
    """Return a PNG with these header fields and these uncompressed data, which need not match."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = (_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(raw, 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def interlaced_png(width: int, height: int) -> bytes:
    """Return a grey Adam7 PNG, which Pillow can read but not write."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = (
        b"\0" + bytes((7 * x + 5 * y) % 256 for x in range(left, width, across))
        for left, top, across, down in passes
        for y in range(top, height, down)
        if left < width
    )
    return png(width, height, 8, 0, b"".join(rows), interlace=1)


def with_chunks(whole: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with more chunks after its header."""
    return whole[:33] + b"".join(_chunk(name, data) for name, data in chunks) + whole[33:]


def _png_with(chunk: bytes) -> bytes:
    """Return a small PNG with one more chunk after its header."""
    whole = saved(scene(4, (32, 24)), "PNG")
    return whole[:33] + chunk + whole[33:]


def _lzw(pixels: bytes) -> bytes:
    """Return the data of a GIF frame of two colours. The code table is cleared after every second pixel."""
    codes = [4, *(code for i in range(0, len(pixels), 2) for code in (*pixels[i : i + 2], 4)), 5]
    packed = sum(code << 3 * i for i, code in enumerate(codes)).to_bytes(3 * len(codes) // 8 + 1, "little")
    return b"\x02" + bytes([len(packed)]) + packed + b"\0"


def gif(
    frames: int,
    *,
    screen: tuple[int, int] = (8, 8),
    position: tuple[int, int] = (0, 0),
    before: bytes = b"",
    coded: bytes = _lzw(b"\0\1" * 32),
) -> bytes:
    """Return a GIF of equal frames of 8 x 8 pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\x10\x20\x90\xff\xe0\xb0"
    return head + before + (b"," + struct.pack("<HHHHB", *position, 8, 8, 0) + coded) * frames + b";"


def bmp(
    width: int, height: int, bits: int, data: bytes, *, compression: int = 0, offset: int = 0, colours: int = 0
) -> bytes:
    """Return a BMP with these header fields, which need not match the data, and with a palette if it needs one."""
    palette = bytes(v for i in range(1 << bits) for v in (i, i, i, 0)) if 0 < bits <= 8 else b""
    start = offset or 54 + len(palette)
    file_head = b"BM" + struct.pack("<III", 54 + len(palette) + len(data), 0, start)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, colours, 0)
    return file_head + head + palette + data


def _riff_chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _riff(*parts: bytes) -> bytes:
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def webp_canvas(width: int, height: int, chunks: bytes) -> bytes:
    """Return an animated WebP with a canvas of this size."""
    return _riff(
        _riff_chunk(b"VP8X", b"\2\0\0\0" + _uint24(width - 1) + _uint24(height - 1)),
        _riff_chunk(b"ANIM", bytes(6)),
        chunks,
    )


def webp_frames(count: int, at: int = 0) -> bytes:
    """Return equal frames of 8 x 8 pixels."""
    image = saved(scene(5, (8, 8)), "WEBP", lossless=True)[12:]
    return _riff_chunk(b"ANMF", _uint24(at) * 2 + _uint24(7) * 2 + _uint24(40) + b"\0" + image) * count


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _after_start(jpeg: bytes, more: bytes) -> bytes:
    return jpeg[:2] + more + jpeg[2:]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _resized(jpeg: bytes, width: int, height: int) -> bytes:
    """Return a JPEG with a header that claims another size."""
    at = next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg)
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def _many_scans(jpeg: bytes, count: int) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * count + jpeg[-2:]


def _many_images(mpo: bytes) -> bytes:
    """Return a camera pair with an index that claims a billion images."""
    tag = mpo.index(b"\xb0\x01") if b"\xb0\x01" in mpo else mpo.index(b"\x01\xb0")
    return mpo[: tag + 8] + struct.pack("<I", 10**9) + mpo[tag + 12 :]


def main() -> None:
    """Write the corpus, and the descriptions of its files beside it."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    descriptions = make_corpus(folder)
    folder.with_name(folder.name + ".json").write_text(json.dumps(descriptions, indent=1))
    print(f"{len(descriptions)} entries in {folder}, described in {folder}.json")


if __name__ == "__main__":
    main()
