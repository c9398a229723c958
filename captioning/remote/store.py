"""Read and list files in buckets and on the web: once, with limits, and with several attempts."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from captioning.errors import FileUnreachable, ImageError
from captioning.remote.connections import connect
from captioning.remote.failures import as_image_error, is_transient
from captioning.remote.listing import RemoteFile, remote_file
from captioning.settings import Settings
from captioning.values import Reason

T = TypeVar("T")
ATTEMPTS = 4
MAX_WAIT_SECONDS = 8.0  # between two attempts
MAX_ATTEMPT_SECONDS = 300.0  # a server that sends a byte now and then must not hold a worker
_BLOCK = 1 << 20  # bytes that are read at once
_LARGE = 16 << 20  # bytes: of larger files, one is in memory at a time


class Download:
    """The bytes of a file, which arrive in the background."""

    def __init__(self) -> None:
        self.future: concurrent.futures.Future[bytes | ImageError]
        self.received = 0  # bytes so far, of all attempts

    def result(self) -> bytes:
        """Wait for the bytes. Raises ImageError."""
        return _value(self.future.result())

    def cancel(self) -> None:
        """Stop it."""
        self.future.cancel()


class RemoteStore:
    """All file systems that URLs name, each connected when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file_systems: dict[bytes, Any] = {}
        self._large: asyncio.Lock | None = None

    def start(self, url: bytes, max_bytes: int, *, has_known_size: bool = False) -> Download:
        """Begin to read a file. The caller answers for the memory of files with known sizes.

        Raises UsageError when the packages for it are missing.
        """
        file_system, download = self._file_system(url), Download()
        small = max_bytes if has_known_size else min(max_bytes, _LARGE)
        coroutine = self._read(file_system, url.decode(), small, max_bytes, download)
        download.future = asyncio.run_coroutine_threadsafe(coroutine, file_system.loop)
        return download

    def read(self, url: bytes, max_bytes: int) -> bytes:
        """Return the content of a file. Raises ImageError."""
        return self.start(url, max_bytes).result()

    def list_folder(self, url: bytes) -> list[RemoteFile]:
        """Return what is directly in a bucket or folder, by name; nothing if it does not exist. Raises ImageError."""
        scheme, _, path = url.decode().partition("://")
        path = path.rstrip("/")
        file_system = self._file_system(url)
        try:
            entries = self._run(file_system, lambda: file_system._ls(path, detail=True))
        except FileUnreachable:
            raise
        except ImageError as error:
            if error.reason is Reason.MISSING and "/" in path:
                return []
            raise
        found = [remote_file(scheme, path, entry) for entry in entries if str(entry["name"]).startswith(f"{path}/")]
        return sorted((file for file in found if file is not None), key=lambda file: file.url)

    def look_up(self, urls: Iterable[bytes]) -> list[RemoteFile | ImageError]:
        """Return the objects at URLs, several at a time, or why they cannot be looked at."""
        return [future.result() for future in [self._start_look_up(url) for url in urls]]

    def gone(self, urls: Iterable[bytes]) -> set[bytes]:
        """Return the URLs at which there is no object. Raises ImageError when a bucket cannot be listed."""
        by_folder: dict[bytes, set[bytes]] = {}
        for url in urls:
            by_folder.setdefault(url.rpartition(b"/")[0], set()).add(url)
        gone: set[bytes] = set()
        for folder, wanted in by_folder.items():
            gone |= wanted - {file.url for file in self.list_folder(folder)}
        return gone

    def _start_look_up(self, url: bytes) -> "concurrent.futures.Future[RemoteFile | ImageError]":
        scheme, _, path = url.decode().partition("://")
        file_system = self._file_system(url)

        async def look() -> RemoteFile:
            return remote_file(scheme, "", await file_system._info(path)) or RemoteFile(url, is_folder=True)

        return asyncio.run_coroutine_threadsafe(self._with_attempts(look), file_system.loop)

    def _file_system(self, url: bytes) -> Any:
        scheme = url.partition(b":")[0]
        if scheme not in self._file_systems:
            self._file_systems[scheme] = connect(url, self._settings)
        return self._file_systems[scheme]

    def _run(self, file_system: Any, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return _value(asyncio.run_coroutine_threadsafe(self._with_attempts(call), file_system.loop).result())

    async def _read(
        self, file_system: Any, url: str, small: int, max_bytes: int, download: Download
    ) -> bytes | ImageError:
        """Return the content of a file. One of more than `small` bytes is read again, alone, from its beginning."""
        data = await self._with_attempts(lambda: _stream(file_system, url, small, download))
        if isinstance(data, bytes) and small < len(data) and small < max_bytes:
            self._large = self._large or asyncio.Lock()
            async with self._large:
                data = await self._with_attempts(lambda: _stream(file_system, url, max_bytes, download))
        if isinstance(data, bytes) and len(data) > max_bytes:
            return ImageError(Reason.TOO_LARGE, f"more than {max_bytes} bytes; the limit is CAPTIONING_MAX_BYTES")
        return data

    async def _with_attempts(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T | ImageError:
        """Await a call, again after transient errors; return its result, or the error of the last attempt.

        There is no other attempt after one that took as long as a server may be silent: a lease must not end meanwhile.
        The error is no exception here, because asyncio would print one of a call that nobody waits for any more.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(self._settings.remote_timeout_seconds),
            wait=wait_random_exponential(multiplier=0.5, max=MAX_WAIT_SECONDS),
            reraise=True,
        )

        async def attempt() -> T:
            async with asyncio.timeout(MAX_ATTEMPT_SECONDS):
                return await call()

        try:
            return await attempts(attempt)
        except Exception as error:  # of three libraries
            return as_image_error(error)


async def _stream(file_system: Any, url: str, limit: int, download: Download) -> bytes:
    """Return the content of a file; of one with more than `limit` bytes a part that is longer than that."""
    if url.startswith("gs:"):  # gcsfs has no stream
        data: bytes = await file_system._cat_file(url, start=0, end=limit + 1)
        download.received += len(data)
        return data
    options = {"size": 0} if url.startswith("https:") else {}  # it would ask for the size first
    file = await file_system.open_async(url, "rb", **options)
    content = bytearray()
    try:
        while len(content) <= limit and (block := await file.read(_BLOCK)):
            content += block
            download.received += len(block)
    finally:
        if url.startswith("https:"):
            await file.close()
        elif file.r is not None:  # the file of s3fs cannot be closed itself
            file.r.close()
    return bytes(content)


def _value(result: T | ImageError) -> T:
    if isinstance(result, ImageError):
        raise result
    return result
