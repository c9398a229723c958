"""Paths as bytes, which are exact, and as text for people."""

import codecs
import hashlib
import os
import unicodedata


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


def absolute(path: bytes) -> bytes:
    """Return a path absolute and with all links resolved, so that one file has one path."""
    return os.path.realpath(path)


def possible_paths(path: bytes) -> tuple[bytes, ...]:
    """Return the absolute paths under which a file or folder that a person names may be known, the likeliest first.

    As it is named: a walk may have followed links, or a link may have replaced the file since. Then with the links of
    its folder resolved, then with all. Each in all its Unicode forms.
    """
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
    """Return the forms under which a path may be known: as it is, composed (NFC) and decomposed (NFD).

    macOS writes decomposed names, most other systems composed ones; both look the same.
    """
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return (path,)
    forms = (path, *(unicodedata.normalize(form, text).encode() for form in ("NFC", "NFD")))
    return tuple(dict.fromkeys(forms))
