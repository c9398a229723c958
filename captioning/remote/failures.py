"""What the errors of servers and libraries mean for a file: try again, wait for the service, or give it a reason."""

from collections.abc import Iterator
from typing import Any

from captioning.errors import FileUnreachable, ImageError
from captioning.terminal import printable
from captioning.values import Reason

_TRY_AGAIN = (408, 425, 429)
_MAX_DETAIL = 200  # characters of what a server says
_REASONS = {
    401: (Reason.FORBIDDEN, "access is denied"),
    403: (Reason.FORBIDDEN, "access is denied"),
    404: (Reason.MISSING, "it does not exist"),
    410: (Reason.MISSING, "it does not exist any more"),
}


def is_transient(error: BaseException) -> bool:
    """Return whether another attempt may succeed."""
    if any(isinstance(one, ImageError) for one in _chain(error)):
        return False
    status = _status_of(error)
    if status is not None:
        return status >= 500 or status in _TRY_AGAIN
    return not _is_final(error) and not _is_about_certificate(error)


def as_image_error(error: Exception) -> ImageError:
    """Return what is stored about a file that cannot be read. FileUnreachable: the service may come back.

    URLs are not repeated: one that a server led to may be signed.
    """
    for one in _chain(error):
        if isinstance(one, ImageError):
            return one
    status = _status_of(error)
    if status is not None and not is_transient(error):
        reason, what = _REASONS.get(status, (Reason.UNREADABLE, "the request fails"))
        return ImageError(reason, f"{what} (HTTP {status})")
    if status is not None:
        return FileUnreachable(Reason.UNREADABLE, f"the server fails (HTTP {status})")
    if _is_final(error):
        return ImageError(Reason.UNREADABLE, f"the server leads nowhere ({type(error).__name__})")
    what = "the server does not answer in time" if isinstance(error, TimeoutError) else _described(error)
    return FileUnreachable(Reason.UNREADABLE, what)


def _described(error: Exception) -> str:
    text = "" if "://" in str(error) else printable(" ".join(str(error).split()))[:_MAX_DETAIL]
    return "the server cannot be read: " + " ".join(filter(None, (text, f"({type(error).__name__})")))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it; libraries put our errors into theirs."""
    seen: list[BaseException] = []
    pending: list[Any] = [error]
    while pending:
        one = pending.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            pending += [one.__cause__, one.__context__, getattr(one, "os_error", None), *one.args]
            pending.append(getattr(one, "kwargs", {}).get("error"))  # botocore's


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status in an error of aiohttp, gcsfs, botocore or s3fs."""
    for one in _chain(error):
        status = _own_status(one)
        if str(status).isdigit() and int(str(status)) >= 400:
            return int(str(status))
    if isinstance(error, FileNotFoundError):
        return 404
    is_denied = isinstance(error, PermissionError) or str(error).startswith("Forbidden: ")  # gcsfs says it in words
    return 403 if is_denied else None


def _own_status(error: BaseException) -> object:
    from aiohttp import ClientResponseError

    if isinstance(error, ClientResponseError):
        return error.status
    if type(error).__module__.startswith("gcsfs"):
        return getattr(error, "code", None)
    response = getattr(error, "response", None)  # botocore's
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def _is_final(error: BaseException) -> bool:
    from aiohttp import InvalidURL, NonHttpUrlClientError, RedirectClientError, TooManyRedirects

    final = (InvalidURL, NonHttpUrlClientError, RedirectClientError, TooManyRedirects)
    return any(isinstance(one, final) for one in _chain(error))


def _is_about_certificate(error: BaseException) -> bool:
    import ssl

    return any(isinstance(one, ssl.SSLError) for one in _chain(error))
