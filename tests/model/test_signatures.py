"""A file that is not decoded is named by its content, with one remedy, whatever its name is."""

import io
import struct
import zipfile

import pytest

from captioning.errors import ImageError
from captioning.model.pixels import open_image
from captioning.values import Reason
from scripts.hostile_images import saved, scene


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
    "DNG": tiff(b"Google", (50706, 0x04010000)),
}


@pytest.mark.parametrize("name", sorted(RAW))
def test_a_raw_file_is_named_and_the_jpeg_beside_it_is_advised(name: str) -> None:
    error = refusal(RAW[name] + bytes(300))
    assert error.reason is Reason.UNSUPPORTED
    assert name.strip() in error.detail
    assert "JPEG" in error.detail


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
    "PDF": b"%PDF-1.7\n",
    "EPS": b"\xc5\xd0\xd3\xc6\x20\0\0\0",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "SVG ": b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x > y -->\n<!DOCTYPE svg PUBLIC '-//W3C' 'x.dtd'>\n<svg>",
    "SVG  ": b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a 'b>c'>]><!-- a --><svg:svg xmlns:svg='x'>",
    "SVG   ": "\ufeff<?xml version='1.0' encoding='utf-16'?><svg/>".encode("utf-16-le"),
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
    "QuickTime": media(b"qt  "),
    "QuickTime ": b"\0\0\0\x08wide\0\0\1\0mdat",
    "MP4": media(b"isom", b"avc1"),
    "3GP": media(b"3gp5"),
    "AVI": b"RIFF\x24\0\0\0AVI LIST",
    "Matroska": b"\x1a\x45\xdf\xa3\x01",
    "ZIP": archive(),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0",
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
        (b"", "the file is empty"),
    ],
)
def test_what_was_fetched_instead_of_an_image_is_unreadable_and_named(data: bytes, named: str) -> None:
    error = refusal(data)
    assert error.reason is Reason.UNREADABLE
    assert named in error.detail
