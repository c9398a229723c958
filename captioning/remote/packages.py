"""Which packages the URLs need: they belong to an extra."""

import functools
from importlib.util import find_spec

from captioning.errors import UsageError
from captioning.installation import DISTRIBUTION

_MODULES = {b"s3": ("fsspec", "s3fs"), b"gs": ("fsspec", "gcsfs"), b"https": ("fsspec", "aiohttp")}
EXTRA = "remote"


@functools.cache
def _is_there(module: str) -> bool:
    return find_spec(module) is not None


def is_installed(url: bytes) -> bool:
    """Return whether this installation can read files with such URLs."""
    return all(_is_there(module) for module in _MODULES[url.partition(b":")[0]])


def require(url: bytes) -> None:
    """Raise UsageError, with the command that installs them, when packages for a URL are missing."""
    if not is_installed(url):
        scheme = url.partition(b":")[0].decode()
        raise UsageError(
            f"{scheme}:// needs packages that are not installed. Run: pip install '{DISTRIBUTION}[{EXTRA}]'"
        )
