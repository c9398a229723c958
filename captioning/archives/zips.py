"""Zip files. Members are found by the directory at the end of the file, so each costs the same."""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

from captioning.archives.contents import Archive, ArchiveLimits, Member, damaged, problem_of_name
from captioning.errors import ArchiveError, ImageError
from captioning.values import Reason

MAX_DIRECTORY_BYTES = 128_000_000  # read at once, and a member takes several times that in memory
_ENCRYPTED, _UTF8 = 0x1, 0x800  # flags
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OverflowError, IndexError)


class ZipArchive(Archive):
    """An open zip file."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits) -> None:
        super().__init__(file, limits)
        try:
            self._zip = zipfile.ZipFile(_Bounded(file))
        except _DAMAGED as error:
            raise damaged("no zip file, or a damaged one", error) from error
        infos = self._zip.infolist()
        if len(infos) > limits.members:
            raise limits.refuse_members()
        if sum(info.compress_size for info in infos) > self.size:
            raise ArchiveError(Reason.UNREADABLE, "its members overlap, as in a zip bomb")
        if sum(info.file_size for info in infos) > limits.most_bytes(self.size):
            raise limits.refuse_bytes(self.size)
        self._times = Counter(_name_of(info) for info in infos)
        self._infos = {_name_of(info): info for info in infos if not info.is_dir()}

    def members(self) -> Iterator[Member]:
        """Yield the members in the order of the directory. One with a repeated name comes once, as a problem."""
        for name, info in self._infos.items():
            yield Member(name, info.file_size, self._problem(name, info))

    def read(self, name: bytes, max_bytes: int, on_progress: Callable[[], object]) -> bytes:
        """Return the content of a member, after a check of its checksum."""
        info = self._infos.get(name)
        if info is None:
            raise ImageError(Reason.MISSING, "the archive has no such member")
        if problem := self._problem(name, info):
            raise ImageError(Reason.UNREADABLE, problem)
        if info.file_size > max_bytes:
            raise too_large(info.file_size, max_bytes)
        try:
            with self._zip.open(info) as member:
                data = member.read(info.file_size)  # not read(), which unpacks more than the size that it states
                if len(data) < info.file_size:
                    raise zipfile.BadZipFile("a member ends early")
                return data
        except _DAMAGED as error:
            raise damaged("damaged in its archive", error) from error

    def _problem(self, name: bytes, info: zipfile.ZipInfo) -> str:
        if problem := problem_of_name(name):
            return problem
        if self._times[name] > 1:
            return "member with a repeated name"
        if info.flag_bits & _ENCRYPTED:
            return "encrypted member"
        if _unix_type(info) not in (0, _REGULAR):
            return "linked or special member"
        # the other ways unpack in one piece, however large it is
        is_known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        return "" if is_known else "member with a rare compression"


_REGULAR = 0o10


def _unix_type(info: zipfile.ZipInfo) -> int:
    """Return the type of a file in the bits of `st_mode`; 0 where the archive does not say."""
    return info.external_attr >> 28 if info.create_system == 3 else 0


def too_large(size: int, max_bytes: int) -> ImageError:
    """Return the error for a member that is larger than a file may be."""
    return ImageError(Reason.TOO_LARGE, f"{size} bytes; the limit is {max_bytes} (CAPTIONING_MAX_BYTES)")


def _name_of(info: zipfile.ZipInfo) -> bytes:
    """Return a name as the bytes that are in the archive."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", "surrogatepass")


class _Bounded(io.RawIOBase):
    """A file of which no piece is read that takes too much memory: the directory is read as one piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise ArchiveError(Reason.TOO_LARGE, f"its directory has more than {MAX_DIRECTORY_BYTES} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
