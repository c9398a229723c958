"""A file that is not decoded is named by its content, with one remedy, whatever its name is."""

import gzip
import io
import struct
import zipfile

import pytest

from captioning.errors import ImageError
from captioning.model.pixels import open_image
from captioning.values import Reason
from producer.sources.kinds import IMAGES as EXTENSIONS
from scripts.hostile_images import bmp
from scripts.scenes import saved, scene


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(data, 224)
    assert "\n" not in caught.value.detail
    return caught.value


def tiff(make: bytes, *tags: tuple[int, int], order: str = "<") -> bytes:
    """Return the head of a TIFF with a maker and other numbers in its first directory."""
    entries = sorted([(271, 2, len(make) + 1, 200), *((tag, 4, 1, value) for tag, value in tags)])
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    head = mark + struct.pack(order + "IH", 8, len(entries)) + directory + bytes(4)
    return head.ljust(200, b"\0") + make + b"\0" + bytes(500)


def media(brand: bytes, *brands: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", 16 + 4 * len(brands)) + b"ftyp" + brand + bytes(4) + b"".join(brands) + body + bytes(200)


RAW = {
    "Fujifilm": b"FUJIFILMCCD-RAW 0201FF389501X-T3",
    "Olympus": b"IIRO\x08\0\0\0",
    "Olympus ": b"IIRS\x08\0\0\0",
    "Olympus  ": b"MMOR\0\0\0\x08",
    "Panasonic": b"IIU\0\x18\0\0\0",
    "Canon RAW (CRW)": b"II\x1a\0\0\0HEAPCCDR\2\0\1\0",
    "Canon RAW (CR2)": b"II*\0\x10\0\0\0CR\2\0",
    "Canon RAW (CR3)": media(b"crx ", b"crx ", b"isom"),
    "Sigma": b"FOVb\0\0\2\0",
    "Minolta": b"\0MRM\0\0\x10\0",
    "Nikon": tiff(b"NIKON CORPORATION", (254, 1), (330, 400), order=">"),
    "Sony": tiff(b"SONY", (254, 1), (330, 400)),
    "Pentax": tiff(b"PENTAX", (262, 32803), order=">"),
    "Kodak": tiff(b"EASTMAN KODAK COMPANY", (330, 400), order=">"),
    "Hasselblad": tiff(b"Hasselblad", (330, 400)),
    "Leaf": tiff(b"Leaf", (330, 400), order=">"),
    "Phase One": b"IIII".rjust(12, b"\0").replace(bytes(8), b"II*\0\x10\0\0\0", 1) + b"waR\0",
    "Epson": tiff(b"SEIKO EPSON CORP.", (330, 400)),
    "Samsung": tiff(b"SAMSUNG", (330, 400)),
    "Sony ": tiff(b"SONY", (513, 400), (514, 900)),
    "Phase One RAW (EIP)": b"PK\3\4\x14\0\0\0\0\0" + bytes(16) + b"\x05\0\0\0" + b"0.IIQ",
    "Rollei": b"DSC-Image",
    "Contax": bytes(25) + b"ARECOYK",
    "Logitech": b"PXN",
    "Rawzor": b"rawzor",
    "DNG": tiff(b"Google", (50706, 0x04010000)),
}


@pytest.mark.parametrize("name", sorted(RAW))
def test_a_raw_file_is_named_and_the_jpeg_beside_it_is_advised(name: str) -> None:
    error = refusal(RAW[name] + bytes(300))
    assert error.reason is Reason.UNSUPPORTED
    assert name.strip() in error.detail
    assert "JPEG" in error.detail


FLASHPIX_CLASS = bytes.fromhex("0067615654c1ce11855300aa00a1f95b")

IMAGES = {
    "TIFF": tiff(b"NIKON CORPORATION", (262, 2)),
    "BigTIFF": b"II+\0\x08\0\0\0",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "JPEG 2000 ": b"\xff\x4f\xff\x51\0\x2f",
    "JPEG XR": b"II\xbc\1\x20\0\0\0",
    "JPEG XL": b"\xff\x0a\xfa",
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n",
    "HEIC": media(b"heic", b"mif1", b"heic"),
    "HEIC ": media(b"mif1", b"mif1", b"heic"),
    "HEIC  ": media(b"msf1", b"hevc"),
    "HEIF": media(b"mif1", b"miaf"),
    "AVIF": media(b"avif", b"mif1"),
    "AVIF ": media(b"mif1", b"mif1", b"avif", b"miaf"),
    "AVIF  ": media(b"heic", b"mif1", body=b"infe\2\0\0\0\0\1\0\0av01"),
    "PSD": b"8BPS\0\1" + bytes(20),
    "PSB": b"8BPS\0\2" + bytes(20),
    "XCF": b"gimp xcf v011\0",
    "DIB": saved(scene(), "BMP")[14:],
    "DIB ": b"\x7c\0\0\0" + struct.pack("<iiHH", 8, -8, 1, 32) + bytes(400),
    "ICO": b"\0\0\1\0\1\0\x20\x20",
    "TGA": struct.pack("<3B5s4H2B", 0, 0, 2, bytes(5), 0, 0, 640, 480, 24, 32) + bytes(range(99)),
    "TGA ": struct.pack("<3BHHB4H2B", 9, 1, 9, 0, 256, 24, 0, 0, 64, 48, 8, 0) + bytes(range(99)),
    "PCX": b"\x0a\0\1\1",
    "DCX": struct.pack("<I", 987654321),
    "FlashPix": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + FLASHPIX_CLASS,
    "PNM": b"Pf\n8 8\n-1.0\n",
    "HEIF (AVCI)": media(b"avci", b"mif1"),
    "EPS": b"\xc5\xd0\xd3\xc6\x20\0\0\0",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "SVG ": b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x > y -->\n<!DOCTYPE svg PUBLIC '-//W3C' 'x.dtd'>\n<svg>",
    "SVG  ": b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a 'b>c'>]><!-- a --><svg:svg xmlns:svg='x'>",
    "SVG   ": "\ufeff<?xml version='1.0' encoding='utf-16'?><svg/>".encode("utf-16-le"),
    "SVG    ": "<?xml version='1.0' encoding='utf-16'?><svg/>".encode("utf-16-be"),
    "SVG     ": b"<!--" + b" Generator: Adobe Illustrator" * 4000 + b"--><svg>",
    "SVGZ": gzip.compress(b"<?xml version='1.0'?><svg/>"),
    "JPEG XS": b"\xff\x10\xff\x50",
    "AVIF   ": media(b"mif3", b"avif"),
    "Olympus": tiff(b"OM Digital Solutions", (330, 400)),
    "XBM": b"/* made by hand */\n#define im_width 16\n",
    "PICT": bytes(522) + b"\0\x11\x02\xff",
    "PCD": bytes(2047) + b"\1PCD_IPI",
    "DICOM": bytes(128) + b"DICM",
    "EMF": b"\1\0\0\0" + bytes(36) + b" EMF",
    "Amiga IFF": b"FORM\0\0\0\0ILBM",
}


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_an_image_that_is_not_decoded_is_named_with_a_remedy(name: str) -> None:
    error = refusal(IMAGES[name] + b" " * 40)
    assert error.reason is Reason.UNSUPPORTED
    assert name.strip() in error.detail
    assert any(word in error.detail for word in ("convert", "export", "save"))


def test_a_real_avif_is_not_called_heic() -> None:
    assert "AVIF" in refusal(saved(scene(), "AVIF")).detail


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.jpg", b"x")
    return out.getvalue()


OTHERS = {
    "PDF": b"\n%PDF-1.7\n",
    "QuickTime": media(b"qt  "),
    "QuickTime ": b"\0\0\0\x08wide\0\0\1\0mdat",
    "MP4": media(b"isom", b"avc1"),
    "3GP": media(b"3gp5"),
    "AVI": b"RIFF\x24\0\0\0AVI LIST",
    "Matroska": b"\x1a\x45\xdf\xa3\x01",
    "ZIP": archive(),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0",
    "AVCHD": (bytes(4) + b"G" + bytes(187)) * 3,
    "AIFF": b"FORM\0\0\0\0AIFF",
    "gzip": gzip.compress(archive()),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_is_no_image_is_named(name: str) -> None:
    error = refusal(OTHERS[name] + bytes(40))
    assert error.reason is Reason.UNSUPPORTED
    assert name.strip() in error.detail
    assert ", not an image; " in error.detail


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"\n<html lang=en>", "a web page"),
        (b"<!-- saved --><HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"hello, I am a text file\n", "a text"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (bytes(5000), "zeros"),
        (b"", "the file is empty; copy or fetch the file again"),
        (b"\xff", "a file of 1 byte, too short for an image"),
        (b" \n", "a file of 2 bytes, too short for an image"),
        (b"[InternetShortcut]\r\nURL=https://example.com/", "a text"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + saved(scene(), "JPEG"), "the answer of a web server"),
        (b"\xef\xbb\xbf\n" + saved(scene(), "JPEG"), "a damaged JPEG, other bytes stand before it"),
        (saved(scene(), "JPEG").decode("utf-8", "replace").encode(), "a damaged JPEG, a program copied it as text"),
        (saved(scene(), "PNG").decode("latin-1").encode(), "a damaged PNG, a program copied it as text"),
    ],
)
def test_what_was_fetched_instead_of_an_image_is_unreadable_and_named(data: bytes, named: str) -> None:
    error = refusal(data)
    assert error.reason is Reason.UNREADABLE
    assert named in error.detail


def raw(make: bytes) -> bytes:
    return tiff(make, (254, 1), (330, 400), order=">")


DECODED = {
    "JPEG": "jpg jpeg jpe jfif jfi jif pjpeg pjp jpg_large mpo jps insp",
    "PNG": "png apng",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
}
REFUSED = {
    "DIB": ("dib", IMAGES["DIB"]),
    "HEIC": ("heic heics hif heif heifs", IMAGES["HEIC"]),
    "HEIF (AVCI)": ("avci avcs", IMAGES["HEIF (AVCI)"]),
    "AVIF": ("avif avifs", IMAGES["AVIF"]),
    "TIFF": ("tif tiff", IMAGES["TIFF"]),
    "JPEG XL": ("jxl", IMAGES["JPEG XL"]),
    "JPEG 2000": ("jp2 jpf jpx jpm jph", IMAGES["JPEG 2000"]),
    "JPEG 2000 ": ("j2k j2c jpc", IMAGES["JPEG 2000 "]),
    "JPEG XR": ("jxr wdp hdp", IMAGES["JPEG XR"]),
    "PSD": ("psd cs1", IMAGES["PSD"]),
    "PSB": ("psb", IMAGES["PSB"]),
    "XCF": ("xcf", IMAGES["XCF"]),
    "TGA": ("tga targa", IMAGES["TGA"]),
    "PCX": ("pcx", b"\x0a\5\1\x08"),
    "PNM": ("ppm pgm pbm pnm pam", b"P7\nWIDTH 8\n"),
    "OpenEXR": ("exr", b"v/1\x01\2\0\0\0"),
    "Radiance HDR": ("hdr", b"#?RADIANCE\n"),
    "FlashPix": ("fpx", IMAGES["FlashPix"]),
    "PCD": ("pcd", IMAGES["PCD"]),
    "DNG": ("dng gpr", RAW["DNG"]),
    "Panasonic or Leica": ("raw rw2 rwl", RAW["Panasonic"]),
    "Canon RAW (CR2)": ("cr2", RAW["Canon RAW (CR2)"]),
    "Canon RAW (CR3)": ("cr3", RAW["Canon RAW (CR3)"]),
    "Canon RAW (CRW)": ("crw", RAW["Canon RAW (CRW)"]),
    "Nikon": ("nef nrw", RAW["Nikon"]),
    "Sony": ("arw arq sr2 srf", RAW["Sony"]),
    "Fujifilm": ("raf", RAW["Fujifilm"]),
    "Olympus": ("orf ori", RAW["Olympus"]),
    "Pentax": ("pef ptx", RAW["Pentax"]),
    "Samsung": ("srw", RAW["Samsung"]),
    "Sigma": ("x3f x3i", RAW["Sigma"]),
    "Hasselblad": ("3fr fff", RAW["Hasselblad"]),
    "Phase One": ("iiq cap", RAW["Phase One"]),
    "Phase One RAW (EIP)": ("eip", RAW["Phase One RAW (EIP)"]),
    "Leaf": ("mos", RAW["Leaf"]),
    "Mamiya": ("mef", raw(b"Mamiya-OP Co.,Ltd.")),
    "Minolta": ("mrw", RAW["Minolta"]),
    "Epson": ("erf", RAW["Epson"]),
    "Kodak": ("kdc dcr dcs k25 kc2 drf", RAW["Kodak"]),
    "Rawzor": ("rwz", RAW["Rawzor"]),
    "Logitech": ("pxn", RAW["Logitech"]),
    "ARRIRAW": ("ari", b"ARRI\x12\x34\x56\x78"),
    "Sinar": ("sti", raw(b"Sinar AG")),
    "RAW": ("bay mdc", b""),  # bare samples, without a header: nothing tells them from noise
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_walk_takes_as_an_image_and_is_not_decoded_is_named_with_a_remedy(name: str) -> None:
    head = REFUSED[name][1]
    error = refusal((head or bytes(range(128, 256)) * 4) + bytes(300))
    assert error.reason is (Reason.UNSUPPORTED if head else Reason.UNREADABLE)
    assert name.strip() in error.detail
    assert any(word in error.detail for word in ("convert", "export", "save"))


def test_every_extension_that_the_walk_takes_is_decoded_or_named() -> None:
    known = [name for names in DECODED.values() for name in names.split()]
    known += [name for names, _ in REFUSED.values() for name in names.split()]
    assert sorted(known) == sorted(name.decode() for name in EXTENSIONS)
    for form in DECODED:
        open_image(saved(scene(), form), 224)


JPEG = saved(scene(), "JPEG")
FRAME = JPEG.index(b"\xff\xc0")


@pytest.mark.parametrize(
    ("marker", "bits", "named"),
    [
        (0xC1, 12, "12-bit JPEG"),
        (0xC2, 12, "12-bit JPEG"),
        (0xC3, 8, "lossless JPEG"),
        (0xC3, 16, "lossless JPEG"),
        (0xC5, 8, "hierarchical JPEG"),
        (0xCA, 8, "arithmetic-coded JPEG"),
        (0xCB, 8, "arithmetic-coded JPEG"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_a_jpeg_that_is_coded_in_a_rare_way_is_unsupported_and_not_damaged(marker: int, bits: int, named: str) -> None:
    error = refusal(JPEG[: FRAME + 1] + bytes([marker, 0, JPEG[FRAME + 3], bits]) + JPEG[FRAME + 5 :])
    assert error.reason is Reason.UNSUPPORTED
    assert error.detail.startswith(f"{named} images are not supported; open the picture")


@pytest.mark.parametrize(
    ("bits", "compression", "masks"),
    [
        (16, 3, (0xF00, 0xF0, 0xF, 0xF000)),
        (32, 3, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
        (32, 6, (0xFF0000, 0xFF00, 0xFF, 0)),
    ],
)
def test_a_bmp_with_rare_bit_masks_is_unsupported_and_not_damaged(
    bits: int, compression: int, masks: tuple[int, ...]
) -> None:
    head = bmp(8, 8, bits, struct.pack("<4I", *masks) + bytes(256), compression=compression, offset=70)
    error = refusal(head)
    assert error.reason is Reason.UNSUPPORTED
    assert error.detail.startswith("BMP (with ")
    assert "open the picture" in error.detail


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_what_is_cut_short_is_to_be_copied_again(form: str) -> None:
    error = refusal(saved(scene(), form)[:-60])
    assert error.reason is Reason.TRUNCATED
    assert error.detail.endswith("; copy or fetch the file again")


def test_a_jpeg_with_an_invalid_header_is_damaged() -> None:
    error = refusal(JPEG[: FRAME + 4] + b"\x05" + JPEG[FRAME + 5 :])
    assert error.reason is Reason.UNREADABLE
    assert error.detail == "a damaged JPEG, its header is invalid; copy or fetch the file again"
