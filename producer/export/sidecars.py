"""Captions beside images, or in a mirrored tree: text files and XMP, without destroying what is there.

For each file the store remembers what a person had there (`before`) and what was written. What an export wrote is
renewed as long as nobody else changed the file; a file that somebody changed is a person's, and stays unless
`overwrite`. What will be written is announced in the store before it is written, so that after a kill each file is
either as it was or as it was announced.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Protocol

import numpy as np

from captioning.errors import FileLeft, UsageError
from captioning.paths import text_of
from captioning.store import sidecars as stored
from captioning.store.captions import FileRow
from captioning.store.database import Database
from captioning.store.sidecars import KnownSidecar
from producer.export import xmp
from producer.export.place import Present, Tree, open_tree

_PAGE = 500  # files that are announced together
_EXAMPLES = 3  # paths that are named for a reason


class OnExisting(StrEnum):
    """What happens to a file that somebody else wrote."""

    SKIP = "skip"
    MERGE = "merge"
    APPEND = "append"
    PREPEND = "prepend"
    OVERWRITE = "overwrite"


class Form(Protocol):
    """A form of sidecar."""

    def name_of(self, name: bytes) -> bytes:
        """Return the name of the sidecar of an image with this name."""

    def content(self, row: FileRow, text: str, before: bytes | None, how: OnExisting) -> bytes:
        """Return the content that says the caption, `before` being what a person had there. Raises FileLeft."""


@dataclass(frozen=True)
class TextForm:
    """A text file with the caption alone."""

    ending: str  # txt or caption

    def name_of(self, name: bytes) -> bytes:
        return _stem(name) + b"." + self.ending.encode()

    def content(self, row: FileRow, text: str, before: bytes | None, how: OnExisting) -> bytes:
        own = text.encode()
        if before is None or not before.strip() or how == OnExisting.OVERWRITE:
            return own + b"\n"
        if how == OnExisting.MERGE:
            raise FileLeft("a text file has no fields to merge: choose append, prepend or overwrite")
        first, second = (before.strip(), own) if how == OnExisting.APPEND else (own, before.strip())
        return first + b"\n" + second + b"\n"


@dataclass(frozen=True)
class XmpForm:
    """An XMP packet with the caption as description and as alt text."""

    with_full_name: bool = False  # a.jpg.xmp, as darktable and digiKam want it; a.xmp, as Adobe's programs do

    def name_of(self, name: bytes) -> bytes:
        return (name if self.with_full_name else _stem(name)) + b".xmp"

    def content(self, row: FileRow, text: str, before: bytes | None, how: OnExisting) -> bytes:
        provenance = xmp.Provenance(row.model if row.source == "machine" else None, row.confidence)
        if before is None or not before.strip():
            return xmp.new_packet(text, text, provenance)
        try:
            packet = xmp.parse(before)
        except FileLeft as error:
            raise FileLeft(f"it cannot be merged: {error}") from None
        texts = {}
        for name in (xmp.DESCRIPTION, xmp.ALT_TEXT):
            present = packet.text(name)
            if not present or how == OnExisting.OVERWRITE:
                texts[name] = text
            elif how in (OnExisting.APPEND, OnExisting.PREPEND):
                texts[name] = " ".join([present, text] if how == OnExisting.APPEND else [text, present])
        return xmp.with_texts(packet, texts, provenance) if texts else before


@dataclass
class Kept:
    """Files that were left as they are, by reason."""

    examples: dict[str, list[str]] = field(default_factory=dict)  # the first paths
    counts: dict[str, int] = field(default_factory=dict)

    def keep(self, path: bytes, reason: str) -> None:
        """Note a file."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(text_of(path))


@dataclass
class Written(Kept):
    """What an export of sidecars did: numbers of files."""

    new: int = 0
    changed: int = 0  # files of others that now have the caption too, or instead
    renewed: int = 0  # files that an export had written
    same: int = 0

    @property
    def written(self) -> int:
        """How many files were written."""
        return self.new + self.changed + self.renewed


@dataclass(frozen=True)
class _Place:
    """Where the sidecar of an image is."""

    row: FileRow
    root: bytes  # of the tree
    path: bytes  # below it

    @property
    def whole(self) -> bytes:
        return self.root.rstrip(b"/") + b"/" + self.path


@dataclass(frozen=True)
class _Write:
    """A file that will be written."""

    place: _Place
    data: bytes
    present: Present | None
    known: KnownSidecar
    kind: str  # new, changed or renewed


EXISTS = "exists: --on-existing says what to do with it"
EDITED = "somebody changed it after the last export: --on-existing overwrite replaces it"


class SidecarExport:
    """Writes sidecars of one form."""

    def __init__(
        self, db: Database, form: Form, text_of_row: Callable[[FileRow], str], on_existing: OnExisting,
        mirror: bytes | None,
    ) -> None:  # fmt: skip
        """`mirror` is the folder of the mirrored tree; None: beside the images."""
        self.db, self.form, self.text_of_row, self.on_existing = db, form, text_of_row, on_existing
        self.mirror = mirror
        self.done = Written()
        self._trees: dict[bytes, Tree | OSError] = {}

    def require_one_name_each(self, rows: Iterable[FileRow]) -> None:
        """Raise UsageError when two images would have one sidecar. Takes 8 bytes for each image."""
        hashes = np.fromiter((_hash(self._place(row).whole) for row in rows), np.uint64)
        values, counts = np.unique(hashes, return_counts=True)
        self._doubled = set(values[counts > 1].tolist())

    def refuse_doubled(self, rows: Iterable[FileRow]) -> None:
        """Raise UsageError that names two images with one sidecar, if `require_one_name_each` found some."""
        if not self._doubled:
            return
        seen: dict[bytes, str] = {}
        for row in rows:
            whole = self._place(row).whole
            if _hash(whole) not in self._doubled:
                continue
            if whole in seen:
                raise UsageError(
                    f"{seen[whole]} and {row.path} would both have {text_of(whole)}: export one of them with --where,"
                    " or use --xmp-name full for XMP."
                )
            seen[whole] = row.path

    def write(self, rows: Iterable[FileRow], change_id: int, on_page: Callable[[int], None]) -> Written:
        """Write the sidecars of images; `on_page` is called with the number of images so far."""
        count = 0
        with ExitStack() as stack:
            stack.callback(self._close)
            for page in _pages(self._place(row) for row in rows):
                known = stored.known_sidecars(self.db, [place.whole for place in page])
                writes = [write for place in page if (write := self._plan(place, known.get(place.whole))) is not None]
                stored.announce(self.db, change_id, [write.known for write in writes])
                for write in writes:
                    self._write(write)
                count += len(page)
                on_page(count)
        return self.done

    def _place(self, row: FileRow) -> _Place:
        inside = row.path_bytes[len(row.root_bytes.rstrip(b"/")) + 1 :]
        folder, _, name = inside.rpartition(b"/")
        sidecar = self.form.name_of(name)
        path = folder + b"/" + sidecar if folder else sidecar
        return _Place(row, row.root_bytes if self.mirror is None else self.mirror, path)

    def _plan(self, place: _Place, known: KnownSidecar | None) -> _Write | None:
        """Decide what happens to a file; None: it stays as it is."""
        try:
            tree = self._tree(place.root)
            present = tree.read(place.path)
            return self._decide(place, present, known)
        except (FileLeft, OSError) as error:
            self.done.keep(place.whole, _reason(error))
            return None

    def _decide(self, place: _Place, present: Present | None, known: KnownSidecar | None) -> _Write | None:
        digest = None if present is None else _digest(present.data)
        how, before, kind = self.on_existing, None if present is None else present.data, "changed"
        if present is None:
            kind = "new"
        elif known is not None and known.is_ours(digest):
            kind, before = "renewed", known.before
            if how == OnExisting.SKIP and before is not None:
                how = OnExisting(known.how)  # as the export that wrote it did
        elif how == OnExisting.SKIP or (known is not None and how != OnExisting.OVERWRITE):
            self.done.keep(place.whole, EXISTS if known is None else EDITED)
            return None
        data = self.form.content(place.row, self.text_of_row(place.row), before, how)
        if present is not None and data == present.data:
            self.done.same += 1
            return None
        written = KnownSidecar(place.whole, str(how), before, digest, _digest(data))
        return _Write(place, data, present, written, kind)

    def _write(self, write: _Write) -> None:
        try:
            self._tree(write.place.root).write(write.place.path, write.data, write.present)
        except (FileLeft, OSError) as error:
            self.done.keep(write.place.whole, _reason(error))
            return
        setattr(self.done, write.kind, getattr(self.done, write.kind) + 1)

    def _tree(self, root: bytes) -> Tree:
        if root not in self._trees:
            try:
                if self.mirror is not None:
                    os.makedirs(root, exist_ok=True)  # noqa: PTH103, bytes
                self._trees[root] = Tree(root)
            except OSError as error:
                self._trees[root] = error
        found = self._trees[root]
        if isinstance(found, OSError):
            raise found
        return found

    def _close(self) -> None:
        for tree in self._trees.values():
            if isinstance(tree, Tree):
                tree.close()


@dataclass
class Restored(Kept):
    """What an undo did to sidecars."""

    removed: int = 0  # files that did not exist before
    restored: int = 0  # files that are again as a person had them


def undo_export(db: Database, change_id: int) -> Restored:
    """Put back what was there before an export, where nobody has changed the file since."""
    done = Restored()
    with open_tree(b"/") as tree:  # no folder on the way may be a link: the paths had none
        for page in stored.sidecars_of(db, change_id):
            settled: list[bytes] = []
            for known in page:
                try:
                    _restore(tree, known.path.lstrip(b"/"), known, done)
                    settled.append(known.path)
                except (FileLeft, OSError) as error:
                    done.keep(known.path, _reason(error))
            stored.forget_sidecars(db, settled)
    stored.finish_undo(db, change_id)
    return done


def _restore(tree: Tree, name: bytes, known: KnownSidecar, done: Restored) -> None:
    present = tree.read(name)
    digest = None if present is None else _digest(present.data)
    if digest == (None if known.before is None else _digest(known.before)):
        return  # it was never written, or is as it was
    if present is None or not known.is_ours(digest):
        raise FileLeft("somebody changed it after the export")
    if known.before is None:
        tree.remove(name, present)
        done.removed += 1
    else:
        tree.write(name, known.before, present)
        done.restored += 1


def _reason(error: FileLeft | OSError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _stem(name: bytes) -> bytes:
    """Return the name of a file without its ending; a name that begins with its only dot has none."""
    stem, dot, _ = name.rpartition(b".")
    return stem if dot and stem else name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash(path: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "little")


def _pages(places: Iterator[_Place]) -> Iterator[Sequence[_Place]]:
    while page := list(islice(places, _PAGE)):
        yield page
