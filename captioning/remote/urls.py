"""Which URLs are taken: `s3://`, `gs://` and `https://`, without anything secret, because they are stored."""

import re
from ipaddress import IPv6Address
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from captioning.errors import UrlRefused
from captioning.paths import text_of
from captioning.terminal import printable

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\.?")
_INVISIBLE = re.compile(r"[\x00-\x20\x7f-\x9f]")
NO_PATH = "object with a name that is no path"
_SECRET = re.compile(
    r"x-(amz|goog)-.*|(.*[-_.])?(signature|sig|token|credentials?|password|passwd|pwd|secret|api[-_]?key|key"
    r"|access[-_]?key([-_]?id)?|key-pair-id|auth|authorization|jwt|session([-_]?id)?|code)",
    re.IGNORECASE,
)
"""Names of parameters that sign a URL or identify somebody."""


def checked_url(url: bytes) -> bytes:
    """Return a URL in the form in which it is stored. Raises UrlRefused."""
    text = text_of(url.strip())
    scheme = text.partition(":")[0].lower()
    if scheme == "http":
        raise UrlRefused(f"{_host_of(text)}: http is not encrypted; use https")
    if _INVISIBLE.search(text.replace(" ", "") if scheme != "https" else text):
        raise UrlRefused(f"{_host_of(text)}: a URL has no blanks and no control characters; write %20 for a blank")
    if "@" in re.split("[/?#]", text.partition("://")[2], maxsplit=1)[0]:
        raise UrlRefused(f"{_host_of(text)}: a URL with a user or a password would be stored with it; leave it out")
    return (_web_url(text) if scheme == "https" else _object_url(scheme, text)).encode()


def root_of(url: bytes) -> bytes:
    """Return the root of a URL: the bucket, or the server."""
    return b"/".join(url.split(b"/", 3)[:3])


def is_prefix(url: bytes) -> bool:
    """Return whether a URL names all objects of a bucket, or below a folder, and not one file."""
    return not url.startswith(b"https:") and (url == root_of(url) or url.endswith(b"/"))


def problem_of_key(key: str) -> str:
    """Return what is wrong with the key of an object as a path; empty if nothing is."""
    parts = key.split("/")
    if "" in parts or "." in parts or ".." in parts or "\0" in key or "?versionId=" in key:
        return NO_PATH
    return ""


def _host_of(text: str) -> str:
    """Return scheme and host of a URL, which are not secret."""
    scheme, _, rest = text.partition("://")
    return printable(f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0].rpartition('@')[2]}")


def _web_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UrlRefused(f"{_host_of(text)}: not a valid URL") from None
    host = _host(parts)
    place = f"https://{host}" + (f":{port}" if port not in (None, 443) else "")
    for name, _ in parse_qsl(parts.query.replace(";", "&"), keep_blank_values=True):
        if _SECRET.fullmatch(name):
            raise UrlRefused(
                f"{place}{parts.path}: its parameter {name} may be a secret, which would be stored; use a URL without"
                " it, or s3:// or gs:// with credentials in the settings"
            )
    if not parts.path.strip("/"):
        raise UrlRefused(f"{place}: this names a server and no file")
    if any(unquote(part) in (".", "..") for part in parts.path.split("/")):
        raise UrlRefused(f"{place}{parts.path}: a URL must not contain . or .. as a folder")
    return place + parts.path + (f"?{parts.query}" if parts.query else "")


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if ":" in host:
        try:
            return f"[{IPv6Address(host)}]"
        except ValueError:
            raise UrlRefused(f"{_host_of(parts.geturl())}: not a valid host") from None
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        host = ""
    if not _HOST.fullmatch(host):
        raise UrlRefused(f"{_host_of(parts.geturl())}: not a valid host")
    return host


def _object_url(scheme: str, text: str) -> str:
    """Return the URL of an object or of a prefix. Its key may contain every character, `?` and `#` too."""
    bucket, slash, key = text.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UrlRefused(f"{_host_of(text)}: not the name of a bucket")
    if key and problem_of_key(key.removesuffix("/")):
        raise UrlRefused(f"{scheme}://{bucket}/{key}: a key with empty parts, . or .. cannot be a path")
    return f"{scheme}://{bucket}{slash if key else ''}{key}"
