"""Tar files, compressed or not. Members are read in their order, once; going back begins anew."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from captioning.archives.contents import Archive, ArchiveLimits, Member, damaged, problem_of_name
from captioning.archives.zips import too_large
from captioning.errors import ArchiveError, ImageError
from captioning.values import Reason

MAX_HEADER_BYTES = 1_000_000  # long names and attributes are read as one piece
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError, OverflowError, RecursionError)
_COMPRESSIONS: dict[bytes, Callable[[BinaryIO], Any]] = {  # how a file begins, and how it is unpacked
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


class TarArchive(Archive):
    """An open tar file, which remembers where it is. The next member costs what it is long; going back, all again."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits) -> None:
        super().__init__(file, limits)
        self._rewind()

    def members(self) -> Iterator[Member]:
        """Yield all members, from the first one on; begins anew."""
        self._rewind()
        while (info := self._next()) is not None:
            if not info.isdir():
                yield Member(_name_of(info), info.size, _problem(info))

    def read(self, name: bytes, max_bytes: int, on_progress: Callable[[], object]) -> bytes:
        """Return the content of a member: the next one of this name, or else the first."""
        for is_last in (False, True):
            while (info := self._next()) is not None:
                on_progress()
                if _name_of(info) == name and not _problem(info):
                    return self._data(info, max_bytes)
            if not is_last:
                self._rewind()
        raise ImageError(Reason.MISSING, "the archive has no such member")

    def _rewind(self) -> None:
        self.file.seek(0)
        start = self.file.read(6)
        self.file.seek(0)
        opened = next((unpack for magic, unpack in _COMPRESSIONS.items() if start.startswith(magic)), None)
        self._count = 0
        try:
            self._stream = _Stream(self.file if opened is None else opened(self.file), self.size, self.limits)
            self._tar = tarfile.TarFile(
                fileobj=self._stream,
                mode="r",
                encoding="utf-8",
                errors="surrogateescape",
            )
        except _DAMAGED as error:
            raise _damaged(error) from error

    def _next(self) -> tarfile.TarInfo | None:
        try:
            info = self._tar.next()
        except _DAMAGED as error:
            raise _damaged(error) from error
        self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header in memory
        self._count += info is not None
        if info is not None and info.size < 0:  # the next header would be before this one, and so on without end
            raise _damaged(tarfile.ReadError("a negative size"))
        if self._count > self.limits.members:
            raise self.limits.refuse_members()
        return info

    def _data(self, info: tarfile.TarInfo, max_bytes: int) -> bytes:
        if info.size > max_bytes:
            raise too_large(info.size, max_bytes)
        try:
            self._stream.seek(info.offset_data)
            data = self._stream.read_data(info.size)
        except _DAMAGED as error:
            raise _damaged(error) from error
        if len(data) < info.size:
            raise ImageError(Reason.TRUNCATED, "the tar file ends within this member")
        return data


def _damaged(error: Exception) -> Exception:
    """Return the error for a damaged archive, and an error of the disk as it is: it has a number."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return damaged("no tar file, or a damaged one", error)


def _name_of(info: tarfile.TarInfo) -> bytes:
    """Return a name as the bytes that are in the archive, without the `./` that tar writes for the current folder."""
    name = info.name.encode("utf-8", "surrogateescape")
    return name[2:] if name.startswith(b"./") else name


def _problem(info: tarfile.TarInfo) -> str:
    if not info.isreg() or info.issparse():
        return "linked or special member"
    return problem_of_name(_name_of(info))


class _Stream(io.RawIOBase):
    """What a tar file reads from: forward only, with limits on what it unpacks to and on the size of a header."""

    def __init__(self, file: BinaryIO, size: int, limits: ArchiveLimits) -> None:
        self._file = file
        self._size = size
        self._limits = limits
        self._most = limits.most_bytes(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._refuse_beyond(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read a piece of a header."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ArchiveError(Reason.TOO_LARGE, f"a header of a member has more than {MAX_HEADER_BYTES} bytes")
        return self.read_data(size)

    def read_data(self, size: int) -> bytes:
        """Read a piece of any size."""
        self._refuse_beyond(self._file.tell() + size)
        return self._file.read(size)

    def _refuse_beyond(self, offset: int) -> None:
        if offset > self._most:
            raise self._limits.refuse_bytes(self._size)
