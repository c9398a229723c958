"""What a path on the command line stands for where no shell has expanded it: `photos/*.jpg`, `{000..009}.tar`."""

import glob
import os
import re
from collections.abc import Iterator
from itertools import islice

from captioning.errors import UsageError
from captioning.paths import text_of
from producer.sources.patterns import alternatives

_RANGE = re.compile(rb"\{(\d+)\.\.(\d+)\}")
_MAX_PATHS = 100_000  # that numbers in braces stand for


def expand(path: bytes, *, is_url: bool = False) -> list[bytes]:
    """Return the paths that a pattern stands for; the path itself if it exists, is no pattern, or matches nothing.

    Numbers in braces become all numbers between, with as many digits; words in braces each word. `**` stands for
    folders at any depth. In a URL only braces have a meaning. Raises UsageError for too many numbers.
    """
    if not is_url and os.path.lexists(path):
        return [path]
    numbered = list(islice(_numbered(path), _MAX_PATHS + 1))
    if len(numbered) > _MAX_PATHS:
        raise UsageError(f"the numbers of {text_of(path)[:80]!r} stand for more than {_MAX_PATHS} paths.")
    words = [os.fsencode(word) for one in numbered for word in alternatives(os.fsdecode(one))]
    if is_url:
        return words
    return [found for word in words for found in (_matches(word) if glob.has_magic(word) else [word])] or [path]


def _numbered(path: bytes) -> Iterator[bytes]:
    """Yield a path with each of the numbers that are in braces."""
    found = _RANGE.search(path)
    if found is None:
        yield path
        return
    width = len(found[1]) if found[1].startswith(b"0") else 0
    for number in range(int(found[1]), int(found[2]) + 1):
        yield from _numbered(path[: found.start()] + b"%0*d" % (width, number) + path[found.end() :])


def _matches(pattern: bytes) -> list[bytes]:
    return sorted(glob.glob(pattern, recursive=True))
