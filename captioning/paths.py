"""Paths as bytes, which are exact, and as text for people."""

import codecs
import hashlib
import itertools
import os
import unicodedata

_MAX_FORMS = 16  # of one path


def _percent(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(f"%{byte:02X}" for byte in bad), error.end


codecs.register_error("captionmill-percent", _percent)


def text_of(path: bytes) -> str:
    """Return a path as UTF-8 text, with bytes that are not UTF-8 as %XX. Different paths can have the same text."""
    return path.decode("utf-8", errors="captionmill-percent")


def hash_of(path: bytes) -> bytes:
    """Return the 16-byte hash by which the store indexes a path."""
    return hashlib.blake2b(path, digest_size=16).digest()


def is_url(path: bytes) -> bool:
    """Return whether a path is a URL of a file or a folder that is not on this machine."""
    return path.startswith((b"s3://", b"gs://", b"https://"))


def absolute(path: bytes) -> bytes:
    """Return a path absolute and with all links resolved, so that one file has one path. A URL stays as it is."""
    return path if is_url(path) else os.path.realpath(path)


def possible_paths(path: bytes) -> tuple[bytes, ...]:
    """Return the absolute paths under which a file or folder that a person names may be known, the likeliest first.

    As it is named: a walk may have followed links, or a link may have replaced the file since. Then with the links of
    its folder resolved, then with all. Each in all its Unicode forms.
    """
    if is_url(path):
        return (path,)
    named = os.path.abspath(path)
    folder, name = os.path.split(named)
    spellings = (named, os.path.join(absolute(folder), name), absolute(path))
    return tuple(dict.fromkeys(form for spelling in spellings for form in unicode_forms(spelling)))


def is_below(path: bytes, folder: bytes) -> bool:
    """Return whether `path` is `folder` or a path below it. Both are absolute and normalised.

    Called for every file: os.path.commonpath gives the same answers and takes fifteen times as long.
    """
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def unicode_forms(path: bytes) -> tuple[bytes, ...]:
    """Return the forms under which a path may be known: as it is, composed (NFC), decomposed (NFD), and part by part.

    macOS writes decomposed names, most other systems composed ones; both look the same. A folder and a file in it can
    come from two systems. At most `_MAX_FORMS` mixed forms are returned.
    """
    if path.isascii():
        return (path,)
    parts = [_forms_of_part(part) for part in path.split(b"/")]
    uniform = (b"/".join(forms[i] for forms in parts) for i in range(3))
    mixed = itertools.product(*(dict.fromkeys(forms) for forms in parts))
    return tuple(dict.fromkeys((*uniform, *(b"/".join(form) for form in itertools.islice(mixed, _MAX_FORMS)))))


def _forms_of_part(part: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the name of a file or folder as it is, composed and decomposed; three times as it is if it is no UTF-8."""
    try:
        text = part.decode()
    except UnicodeDecodeError:
        return part, part, part
    return part, unicodedata.normalize("NFC", text).encode(), unicodedata.normalize("NFD", text).encode()
