"""How an archive and its members are named: `a.zip` is an archive, `a.zip!/dogs/b.jpg` one of its members."""

import re

_ENDING = rb"\.(?:zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)"
_ARCHIVE = re.compile(rb"[^/]" + _ENDING + rb"$", re.IGNORECASE)
_MEMBER = re.compile(rb"(.*?[^/]" + _ENDING + rb")!/(.+)", re.IGNORECASE | re.DOTALL)
_CONTENTS = re.compile(rb"(.*?[^/]" + _ENDING + rb")!/?$", re.IGNORECASE | re.DOTALL)


def is_archive(name: bytes) -> bool:
    """Return whether a file is taken for an archive, by its name."""
    return _ARCHIVE.search(name) is not None


def member_path(archive: bytes, name: bytes = b"") -> bytes:
    """Return the path of a member; without a name, the path that all members are below."""
    return archive + b"!/" + name if name else archive + b"!"


def split_member(path: bytes) -> tuple[bytes, bytes] | None:
    """Return the path of an archive and the name of the member that a path is of; None for any other path."""
    found = _MEMBER.fullmatch(path)
    return (found[1], found[2]) if found else None


def archive_of(path: bytes) -> bytes | None:
    """Return the path of the archive, for a member and for all members (`a.zip!`); None for any other path."""
    found = _MEMBER.fullmatch(path) or _CONTENTS.fullmatch(path)
    return found[1] if found else None
