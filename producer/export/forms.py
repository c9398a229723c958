"""Forms of sidecars: how a file is called, and what it says with a caption in it."""

import codecs
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

import numpy as np

from captioning.errors import FileLeft
from captioning.store.captions import FileRow
from producer.export import xmp
from producer.export.xmp_packet import ALT_TEXT, DESCRIPTION, parse


class OnExisting(StrEnum):
    """What happens to a file that somebody else wrote."""

    SKIP = "skip"
    MERGE = "merge"
    APPEND = "append"
    PREPEND = "prepend"
    OVERWRITE = "overwrite"


class Form(Protocol):
    """A form of sidecar."""

    remedy: ClassVar[str]  # what to do when two images would have one sidecar

    def name_of(self, name: bytes) -> bytes:
        """Return the name of the sidecar of an image with this name."""

    def content(self, row: FileRow, text: str, before: bytes | None, how: OnExisting) -> bytes:
        """Return the content that says the caption, `before` being what a person had there. Raises FileLeft."""

    def words(self, data: bytes) -> str:
        """Return the words of others in a sidecar. Raises FileLeft for one that cannot be read."""


@dataclass(frozen=True)
class TextForm:
    """A text file with the caption alone."""

    ending: str  # txt or caption
    remedy: ClassVar[str] = "rename one of them, or leave it out, for example with --where '-path:NAME'"

    def name_of(self, name: bytes) -> bytes:
        return _stem(name) + b"." + self.ending.encode()

    def content(self, row: FileRow, text: str, before: bytes | None, how: OnExisting) -> bytes:
        own = " ".join(text.splitlines()).encode()  # readers of such files take each line for a caption
        if before is None or not before.strip() or how == OnExisting.OVERWRITE:
            return own + b"\n"
        if how == OnExisting.MERGE:
            raise FileLeft("a text file has no fields to merge: choose append, prepend or overwrite")
        if b"\0" in before or not _is_utf8(before):
            raise FileLeft("it is not in UTF-8, so a caption cannot be added")
        if not own:
            return before
        line = b"\r\n" if b"\r\n" in before else b"\n"
        if how == OnExisting.APPEND:
            return before + (b"" if before.endswith(b"\n") else line) + own + line
        mark = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
        return mark + own + line + before.removeprefix(mark)

    def words(self, data: bytes) -> str:
        if not _is_utf8(data):
            raise FileLeft("it is not in UTF-8")
        return data.decode("utf-8-sig")


@dataclass(frozen=True)
class XmpForm:
    """An XMP packet with the caption as description and as alt text."""

    with_full_name: bool = False  # a.jpg.xmp, as darktable and digiKam want it; a.xmp, as Adobe's programs do
    remedy: ClassVar[str] = "--xmp-name full gives each its own"

    def name_of(self, name: bytes) -> bytes:
        return (name if self.with_full_name else _stem(name)) + b".xmp"

    def content(self, row: FileRow, text: str, before: bytes | None, how: OnExisting) -> bytes:
        provenance = xmp.Provenance(row.model if row.source == "machine" else None, row.confidence)
        if before is None or not before.strip():
            return xmp.new_packet(text, provenance)
        try:
            return xmp.with_caption(parse(before), text, _XMP_HOW[how], provenance)
        except FileLeft as error:
            raise FileLeft(f"it cannot be changed: {error}") from None

    def words(self, data: bytes) -> str:
        packet = parse(data)
        return packet.words_of_others(DESCRIPTION) or packet.words_of_others(ALT_TEXT)


_XMP_HOW: dict[OnExisting, xmp.How] = {
    OnExisting.SKIP: "merge", OnExisting.MERGE: "merge", OnExisting.APPEND: "append", OnExisting.PREPEND: "prepend",
    OnExisting.OVERWRITE: "overwrite",
}  # fmt: skip


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _stem(name: bytes) -> bytes:
    """Return the name of a file without its ending; a name that begins with its only dot has none."""
    stem, dot, _ = name.rpartition(b".")
    return stem if dot and stem else name


def sidecar_of(form: Form, image: bytes) -> bytes:
    """Return the path of the sidecar beside an image."""
    folder, _, name = image.rpartition(b"/")
    return folder + b"/" + form.name_of(name)


def doubled_names(form: Form, rows: Iterable[FileRow]) -> set[int]:
    """Return hashes of the paths of sidecars that two images have. Takes 8 bytes for each image."""
    return doubled(sidecar_of(form, row.path_bytes) for row in rows if row.sha256 is not None)


def doubled(paths: Iterable[bytes]) -> set[int]:
    """Return hashes of the paths that occur twice."""
    values, counts = np.unique(np.fromiter(map(hash_of_path, paths), np.uint64), return_counts=True)
    return set(values[counts > 1].tolist())


def hash_of_path(path: bytes) -> int:
    """Return 8 bytes that tell paths apart, as good as always."""
    return int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "little")
