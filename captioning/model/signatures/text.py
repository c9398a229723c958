"""Markup and text: drawings in SVG, and what was saved instead of an image."""

import re
import zlib

from captioning.model.signatures.kind import DRAWING, UNPACK, Kind, image, instead, other

_MAX_PROLOG = 1_000_000  # bytes; drawing programs write long comments
_MAX_TEXT = 4096
_MARKS = ((b"\xff\xfe\0\0", "utf-32-le"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_UNMARKED = ((re.compile(rb"<\0[^\0]\0"), "utf-16-le"), (re.compile(rb"\0<\0[^\0]"), "utf-16-be"))
_PROLOG = re.compile(rb"\s*(?:<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE\s+svg[^\[>]*(?:\[.*?\])?\s*>|<\?.*?\?>)", re.S | re.I)
_SVG = re.compile(rb"<(?:\w+:)?svg[\s>:/]")
_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|script|title|meta|div|p\b|h1|iframe|center)")
_JSON = re.compile(rb'\s*(?:\{|\[\s*[\[{"\d\]-])')


def find(data: bytes) -> Kind | None:
    """Return the kind of markup and text, also of what is compressed with gzip; None for other files."""
    if data.startswith(b"\x1f\x8b"):
        return _compressed(data)
    return _markup(data) or _text(data)


def _compressed(data: bytes) -> Kind:
    try:
        content = zlib.decompressobj(wbits=31).decompress(data, _MAX_PROLOG)
    except zlib.error:
        content = b""
    is_drawing = _SVG.match(_after_prolog(content)) is not None
    return image("compressed SVG (SVGZ)", DRAWING) if is_drawing else other("a gzip archive", UNPACK)


def _markup(data: bytes) -> Kind | None:
    """Recognise SVG behind a declaration, comments and a doctype, and web pages that were saved as an image."""
    head = _after_prolog(data)
    if _SVG.match(head):
        return image("SVG", DRAWING)
    if _PAGE.match(head):
        return instead("a web page")
    if re.match(rb"<[\w?!]", _eight_bit(data[:_MAX_TEXT]).lstrip()):
        return instead("an XML or HTML text")
    return None


def _after_prolog(data: bytes) -> bytes:
    """Return the beginning of the first element, in lower case."""
    text, at = _eight_bit(data[:_MAX_PROLOG]), 0
    while (found := _PROLOG.match(text, at)) is not None:
        at = found.end()
    return text[at : at + _MAX_TEXT].lstrip()[:200].lower()


def _eight_bit(data: bytes) -> bytes:
    """Return text without its byte order mark, and UTF-16 and UTF-32 as UTF-8."""
    for mark, coding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(coding, "ignore").encode()
    for pattern, coding in _UNMARKED:
        if pattern.match(data):
            return data.decode(coding, "ignore").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _text(data: bytes) -> Kind | None:
    head = _eight_bit(data[:_MAX_TEXT])
    if len(head.strip()) < 4 or re.match(rb"\s*<", head):
        return None
    if b"\0" in head or len(head.translate(None, bytes(range(9)) + bytes(range(14, 32)))) < len(head):
        return None
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return None
    return instead("a JSON text" if _JSON.match(head) else "a text")
