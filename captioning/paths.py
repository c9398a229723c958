"""Paths as bytes, which is what they are, and as text for people."""

import codecs
import hashlib
import os


def _percent(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(f"%{byte:02X}" for byte in bad), error.end


codecs.register_error("captionmill-percent", _percent)


def text_of(path: bytes) -> str:
    """Return a path as UTF-8 text, every byte that isn't UTF-8 as %XX. Two paths may read alike; bytes decide."""
    return path.decode("utf-8", errors="captionmill-percent")


def hash_of(path: bytes) -> bytes:
    """Return the 16 bytes by which a path is found."""
    return hashlib.blake2b(path, digest_size=16).digest()


def absolute(path: bytes) -> bytes:
    """Return where a path that a person gave really is: links in it are followed, so that one place has one name."""
    return os.path.realpath(path)


def is_below(path: bytes, folder: bytes) -> bool:
    """Tell whether a path is a folder or lies in it; both absolute."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
