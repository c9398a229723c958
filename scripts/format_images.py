"""Small images of our own in the extra formats, for tests and the corpus of hostile files.

Pillow writes most of them. heic/*.heic is `scene(7)`, encoded once by heif-enc; `heic` here puts its coded picture into
containers of any structure. RAW and Photoshop files are written by hand.
"""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from scripts.scenes import saved, scene

_HEIC = Path(__file__).with_name("heic")
SEED = 7  # of the scene in the HEIC files


def heic_file(name: str) -> bytes:
    """Return a HEIC file that heif-enc has written: `scene` or `alpha`."""
    return (_HEIC / f"{name}.heic").read_bytes()


# -- HEIC --


def box(name: bytes, content: bytes, version: int | None = None, flags: int = 0) -> bytes:
    """Return a box of an ISO media file."""
    head = b"" if version is None else struct.pack(">I", version << 24 | flags)
    return struct.pack(">I", 8 + len(head) + len(content)) + name + head + content


def _coded() -> tuple[bytes, bytes]:
    """Return the decoder's configuration and the coded picture of scene.heic, 160 x 120."""
    whole = heic_file("scene")
    at = whole.index(b"hvcC") - 4
    configuration = whole[at : at + int.from_bytes(whole[at : at + 4], "big")]
    return configuration, whole[whole.index(b"mdat") + 4 :]


def size_property(width: int, height: int) -> bytes:
    """Return the property of a HEIC image that declares its size."""
    return box(b"ispe", struct.pack(">II", width, height), version=0)


def heic(*properties: bytes, size: tuple[int, int] = (160, 120), brand: bytes = b"heic") -> bytes:
    """Return a HEIC file of scene(7) with more properties, such as a rotation or a profile."""
    configuration, picture = _coded()
    return _heif([(b"hvc1", picture, [configuration, size_property(*size), *properties])], [], brand)


def heic_grid(columns: int, rows: int, declared: tuple[int, int], tiles: int | None = None) -> bytes:
    """Return a HEIC file that consists of tiles, all scene(7), with any declared size of the whole."""
    configuration, picture = _coded()
    head = struct.pack(">BBBBII", 0, 1, rows - 1 & 255, columns - 1 & 255, *declared)
    number = columns * rows if tiles is None else tiles
    tile = (b"hvc1", picture, [configuration, size_property(160, 120)])
    grid = (b"grid", head, [size_property(*declared)])
    return _heif([grid, *[tile] * number], list(range(2, number + 2)), b"heic")


def _heif(items: list[tuple[bytes, bytes, list[bytes]]], parts: list[int], brand: bytes) -> bytes:
    """Return a file of items (type, content, properties), the first of which is shown and may consist of `parts`."""
    names = b"".join(
        box(b"infe", struct.pack(">HH", n, 0) + kind + b"\0", version=2) for n, (kind, _, _) in enumerate(items, 1)
    )
    distinct = list(dict.fromkeys(p for _, _, properties in items for p in properties))
    used = b"".join(
        struct.pack(">HB", n, len(properties)) + bytes(0x80 | distinct.index(p) + 1 for p in properties)
        for n, (_, _, properties) in enumerate(items, 1)
    )
    links = box(b"dimg", struct.pack(f">HH{len(parts)}H", 1, len(parts), *parts))
    contents = list(dict.fromkeys(content for _, content, _ in items))

    def meta(start: int) -> bytes:
        at = {content: start + sum(map(len, contents[:i])) for i, content in enumerate(contents)}
        places = b"".join(
            struct.pack(">HHHII", n, 0, 1, at[content], len(content)) for n, (_, content, _) in enumerate(items, 1)
        )
        inner = (
            box(b"hdlr", bytes(4) + b"pict" + bytes(13), version=0)
            + box(b"pitm", struct.pack(">H", 1), version=0)
            + box(b"iloc", b"\x44\0" + struct.pack(">H", len(items)) + places, version=0)
            + box(b"iinf", struct.pack(">H", len(items)) + names, version=0)
            + (box(b"iref", links, version=0) if parts else b"")
            + box(
                b"iprp",
                box(b"ipco", b"".join(distinct)) + box(b"ipma", struct.pack(">I", len(items)) + used, version=0),
            )
        )
        return box(b"meta", inner, version=0)

    head = box(b"ftyp", brand + bytes(4) + b"mif1" + brand)
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", b"".join(contents))


# -- Photoshop --


def psd(
    image: Image.Image, *, alpha: Image.Image | None = None, layers: int | None = None, resources: bytes = b""
) -> bytes:
    """Return a Photoshop file with a flat image, a fourth channel, and a declared number of layers."""
    channels = [*image.split(), *([alpha] if alpha else [])]
    mode = {"L": 1, "RGB": 3, "CMYK": 4, "LAB": 9}[image.mode]
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, len(channels), image.height, image.width, 8, mode)
    info = b"" if layers is None else struct.pack(">h", layers) + bytes(2)
    section = struct.pack(">I", len(info)) + info if info else b""
    sections = b"".join(struct.pack(">I", len(part)) + part for part in (b"", resources, section))
    return head + sections + b"\0\0" + b"".join(channel.tobytes() for channel in channels)


def psd_resource(number: int, content: bytes) -> bytes:
    """Return an image resource of a Photoshop file."""
    return b"8BIM" + struct.pack(">H2xI", number, len(content)) + content + bytes(len(content) % 2)


# -- RAW --


def tiff_directory(entries: list[tuple[int, int, int, bytes | int]], start: int) -> bytes:
    """Return a directory of a little-endian TIFF: entries of tag, type, count and value, sorted by tag.

    Values of more than four bytes follow it. `start` is where the directory begins in the file.
    """
    table, more = b"", b""
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in sorted(entries, key=lambda entry: entry[0]):
        data = struct.pack("<H" if kind == 3 else "<I", value) if isinstance(value, int) else value
        if len(data) > 4:
            data, more = struct.pack("<I", behind + len(more)), more + data + bytes(len(data) % 2)
        table += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    return struct.pack("<H", len(entries)) + table + bytes(4) + more


def dng(preview: bytes, preview_size: tuple[int, int], *, orientation: int = 1, sensor: int = 64) -> bytes:
    """Return a DNG: the first directory holds a JPEG preview, the second the samples of a sensor."""
    width, height = preview_size
    samples = np.full((sensor, sensor), 500, np.uint16).tobytes()
    start, model = 8, b"captionmill test\0"

    def first(sub: int, at: int) -> bytes:
        return tiff_directory(
            [
                (254, 4, 1, 1), (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, struct.pack("<3H", 8, 8, 8)),
                (259, 3, 1, 7), (262, 3, 1, 6), (271, 2, len(model), model), (272, 2, len(model), model),
                (273, 4, 1, at), (274, 3, 1, orientation), (277, 3, 1, 3), (278, 4, 1, height),
                (279, 4, 1, len(preview)), (330, 4, 1, sub), (50706, 1, 4, b"\1\4\0\0"), (50708, 2, len(model), model),
            ],
            start,
        )  # fmt: skip

    second_at = start + len(first(0, 0))

    def second(at: int) -> bytes:
        return tiff_directory(
            [
                (254, 4, 1, 0), (256, 4, 1, sensor), (257, 4, 1, sensor), (258, 3, 1, 16), (259, 3, 1, 1),
                (262, 3, 1, 32803), (273, 4, 1, at), (277, 3, 1, 1), (278, 4, 1, sensor), (279, 4, 1, len(samples)),
                (33421, 3, 2, struct.pack("<2H", 2, 2)), (33422, 1, 4, b"\0\1\1\2"),
            ],
            second_at,
        )  # fmt: skip

    samples_at = second_at + len(second(0))
    preview_at = samples_at + len(samples)
    return b"II*\0" + struct.pack("<I", start) + first(second_at, preview_at) + second(samples_at) + samples + preview


# -- one of each --


def extra_bases() -> dict[str, tuple[str, bytes]]:
    """Return one small good file of each extra format and of its variants: extension and content by its name."""
    import pylibjxl

    image = scene(SEED)
    grey = np.asarray(image.convert("L"))
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    pages = {"save_all": True, "append_images": [scene(1), scene(2)]}
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    return {
        "HEIC": ("heic", heic_file("scene")),
        "HEIC with alpha": ("heic", heic_file("alpha")),
        "HEIC of tiles": ("heic", heic_grid(2, 2, (320, 240))),
        "AVIF": ("avif", saved(image, "AVIF")),
        "animated AVIF": ("avif", saved(image, "AVIF", **pages)),
        "TIFF": ("tif", saved(image, "TIFF")),
        "deflated TIFF": ("tif", saved(image, "TIFF", compression="tiff_adobe_deflate")),
        "TIFF with a JPEG": ("tif", saved(image, "TIFF", compression="jpeg")),
        "fax": ("tif", saved(image.convert("1"), "TIFF", compression="group4")),
        "TIFF in CMYK": ("tif", saved(image.convert("CMYK"), "TIFF", compression="tiff_lzw")),
        "TIFF in Lab": ("tif", saved(lab.apply(image), "TIFF")),
        "TIFF of 16 bits": ("tif", saved(deep, "TIFF")),
        "TIFF of numbers": ("tif", saved(Image.fromarray(grey.astype(np.float32) / 255), "TIFF")),
        "TIFF of pages": ("tif", saved(image, "TIFF", **pages)),
        "BigTIFF": ("tif", saved(image, "TIFF", big_tiff=True)),
        "JPEG 2000": ("jp2", saved(image, "JPEG2000")),
        "JPEG 2000 codestream": ("j2k", saved(image.convert("L"), "JPEG2000", no_jp2=True)),
        "Photoshop": ("psd", psd(image)),
        "JPEG XL": ("jxl", pylibjxl.encode(np.asarray(image))),
        "DNG": ("dng", dng(saved(image, "JPEG"), image.size)),
    }
