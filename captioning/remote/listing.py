"""What a folder of a bucket contains."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from captioning.remote.urls import NO_PATH, problem_of_key


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object as a bucket lists it, or a folder. `problem` is the category under which it is counted as skipped."""

    url: bytes
    is_folder: bool = False
    size: int = 0  # bytes
    mtime_ns: int = 0
    version: int | None = None  # a digest of its ETag: another one means that the content may be another
    problem: str = ""

    @property
    def name(self) -> bytes:
        """The last part of the URL."""
        return self.url.rpartition(b"/")[2]


def remote_file(scheme: str, folder: str, entry: dict[str, Any]) -> RemoteFile | None:
    """Return an entry of a folder as s3fs or gcsfs lists it; None for the empty object that stands for the folder."""
    is_folder, name = entry["type"] == "directory", str(entry["name"])
    if name == f"{folder}/" and not is_folder:
        return None
    plain = name.removesuffix("/") if is_folder else name
    problem = NO_PATH if plain == folder else problem_of_key(plain.partition("/")[2])
    url = f"{scheme}://{name if problem else plain}".encode()
    if is_folder:
        return RemoteFile(url, is_folder=True, problem=problem)
    etag = entry.get("ETag") or entry.get("etag") or entry.get("md5Hash")
    return RemoteFile(
        url,
        size=int(entry.get("size") or 0),
        mtime_ns=_nanoseconds(entry.get("LastModified") or entry.get("updated") or entry.get("mtime")),
        version=None if etag is None else _digest(str(etag)),
        problem=problem,
    )


def _nanoseconds(time: object) -> int:
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return round(time.timestamp() * 1000) * 1_000_000 if isinstance(time, datetime) else 0


def _digest(text: str) -> int:
    """Return 62 bits: the store has signed numbers."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 2
