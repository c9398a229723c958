"""Captions beside images, or in a mirrored tree: text files and XMP, without destroying what is there.

For each file the store remembers what a person had there (`before`) and what was written. What an export wrote is
renewed as long as nobody else changed the file; a file that somebody changed, or put back, is a person's, and stays
unless `overwrite`. What will be written is announced in the store before it is written, so that after a kill each file
is either as it was or as it was announced.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice

from captioning.archives import split_member
from captioning.errors import FileAway, FileLeft, UsageError
from captioning.paths import is_url, text_of
from captioning.store import sidecars as stored
from captioning.store.captions import FileRow
from captioning.store.database import Database
from captioning.store.sidecars import KnownSidecar, digest_of
from producer.export.forms import Form, OnExisting, doubled, hash_of_path
from producer.export.place import Present, Tree, open_tree

_PAGE = 500  # files that are announced together
_EXAMPLES = 3  # paths that are named for a reason


@dataclass
class Kept:
    """Files that were left as they are, by reason."""

    examples: dict[str, list[str]] = field(default_factory=dict)  # the first paths
    counts: dict[str, int] = field(default_factory=dict)
    unwritten: int = 0  # of them, those that the system did not let us write

    def fail(self, path: bytes, error: FileLeft | OSError) -> None:
        """Note a file with what was raised."""
        self.unwritten += isinstance(error, OSError)
        self.keep(path, (error.strerror or str(error)) if isinstance(error, OSError) else str(error))

    def keep(self, path: bytes, reason: str) -> None:
        """Note a file with the reason."""
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
    before: KnownSidecar | None
    announced: KnownSidecar
    kind: str  # new, changed or renewed


EXISTS = "it is somebody else's, see --on-existing"
EDITED = "somebody changed it after the last export; --on-existing overwrite replaces it"


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
        self._trees: dict[bytes, Tree | FileLeft | OSError] = {}

    def require_one_name_each(self, rows: Iterable[FileRow]) -> None:
        """Raise UsageError when two images would have one sidecar. Takes 8 bytes for each image."""
        self._doubled = doubled(self._place(row).whole for row in rows if not self._is_of_partner(row))

    def refuse_doubled(self, rows: Iterable[FileRow]) -> None:
        """Raise UsageError that names two images with one sidecar, if `require_one_name_each` found some."""
        if not self._doubled:
            return
        seen: dict[bytes, str] = {}
        for row in rows:
            whole = self._place(row).whole
            if self._is_of_partner(row):
                continue
            if hash_of_path(whole) not in self._doubled:
                continue
            if whole in seen:
                raise UsageError(f"{seen[whole]} and {row.path} would both have {text_of(whole)}: {self.form.remedy}.")
            seen[whole] = row.path

    def write(self, rows: Iterable[FileRow], detail: dict[str, object], on_page: Callable[[int], None]) -> Written:
        """Write the sidecars of images; `on_page` is called with the number of images so far.

        The export is recorded with this detail as soon as it writes a file.
        """
        count = change_id = 0
        with ExitStack() as stack:
            stack.callback(self._close)
            for page in _pages(self._place(row) for row in rows if not self._is_of_partner(row)):
                known = stored.known_sidecars(self.db, [place.whole for place in page])
                images = stored.registered(self.db, [place.whole for place in page])
                writes = [write for place in page if (write := self._plan(place, known.get(place.whole), images))]
                if writes and not change_id:
                    change_id = stored.begin_export(self.db, detail)
                writes = [replace(w, announced=replace(w.announced, change=change_id)) for w in writes]
                announced = stored.announce(self.db, [write.announced for write in writes], known)
                for write in writes:
                    if write.place.whole in announced:
                        self._write(write)
                    else:
                        self.done.keep(write.place.whole, "another export is writing it at this moment")
                count += len(page)
                on_page(count)
        return self.done

    def _is_of_partner(self, row: FileRow) -> bool:
        """Return whether the sidecar of a file is that of the image with the same caption: IMG_1.xmp."""
        if row.partner is None:
            return False
        name, partner = (path.rpartition("/")[2].encode() for path in (row.path, row.partner))
        return self.form.name_of(name) == self.form.name_of(partner)

    def _place(self, row: FileRow) -> _Place:
        inside = row.path_bytes[len(row.root_bytes.rstrip(b"/")) + 1 :]
        folder, _, name = inside.rpartition(b"/")
        sidecar = self.form.name_of(name)
        path = folder + b"/" + sidecar if folder else sidecar
        return _Place(row, row.root_bytes if self.mirror is None else self.mirror, path)

    def _plan(self, place: _Place, known: KnownSidecar | None, images: set[bytes]) -> _Write | None:
        """Decide what happens to a file; None: it stays as it is."""
        try:
            if self.mirror is None:
                _refuse_beside(place.row.path_bytes)
            if place.whole in images:
                raise FileLeft("it is an image that is registered, not a sidecar")
            tree = self._tree(place.root)
            if self.mirror is None:
                self._require_image(tree, place)
            if known is not None and known.image not in (None, place.row.path_bytes):
                self._refuse_sidecar_of(known.image or b"", tree, place)
            return self._decide(place, tree.read(place.path), known)
        except (FileLeft, OSError) as error:
            self.done.fail(place.whole, error)
            return None

    @staticmethod
    def _require_image(tree: Tree, place: _Place) -> None:
        """Raise FileLeft unless the image is there, as it was captioned."""
        row = place.row
        state = tree.state(row.path_bytes[len(row.root_bytes.rstrip(b"/")) + 1 :])
        if state is None:
            raise FileLeft("its image is not there: mount the disk, or submit the folder again")
        if state != (row.size, row.mtime_ns):
            raise FileLeft("its image has changed since: submit the folder again")

    def _refuse_sidecar_of(self, other: bytes, tree: Tree, place: _Place) -> None:
        """Raise FileLeft unless the other image beside it, of which a sidecar is, has gone: was converted, perhaps."""
        below = place.row.root_bytes.rstrip(b"/") + b"/"
        if self.mirror is None and other.startswith(below) and tree.state(other.removeprefix(below)) is None:
            return
        raise FileLeft(f"it is the sidecar of another image, {text_of(other)}")

    def _decide(self, place: _Place, present: Present | None, known: KnownSidecar | None) -> _Write | None:
        how, kind = self.on_existing, "changed"
        before, mtime_ns = (None, None) if present is None else (present.data, present.mtime_ns)
        digest = digest_of(before)
        if present is None:
            kind = "new"
        elif known is not None and known.is_ours(digest):
            kind, before, mtime_ns = "renewed", known.before, known.mtime_ns
            if how == OnExisting.SKIP and before is not None:
                how = OnExisting(known.how)  # as the export that wrote it did
        elif how == OnExisting.SKIP or (how != OnExisting.OVERWRITE and known and digest != digest_of(known.before)):
            self.done.keep(place.whole, EXISTS if known is None or digest == digest_of(known.before) else EDITED)
            return None
        if present is not None and present.is_read_only and how != OnExisting.OVERWRITE:
            raise FileLeft("it is read-only")
        data = self.form.content(place.row, self.text_of_row(place.row), before, how)
        if present is not None and data == present.data:
            self.done.same += 1
            return None
        if present is None and known is not None:  # somebody removed it: what a person had there is still remembered
            how, before, mtime_ns = OnExisting(known.how), known.before, known.mtime_ns
        announced = KnownSidecar(
            place.whole, str(how), before, digest, digest_of(data), place.row.path_bytes, mtime_ns
        )  # fmt: skip
        return _Write(place, data, present, known, announced, kind)

    def _write(self, write: _Write) -> None:
        try:
            self._tree(write.place.root).write(write.place.path, write.data, write.present)
        except (FileLeft, OSError) as error:
            self.done.fail(write.place.whole, error)
            stored.withdraw(self.db, write.announced, write.before)
            return
        setattr(self.done, write.kind, getattr(self.done, write.kind) + 1)

    def _tree(self, root: bytes) -> Tree:
        if root not in self._trees:
            try:
                if self.mirror is not None:
                    os.makedirs(root, exist_ok=True)  # noqa: PTH103, bytes
                self._trees[root] = Tree(root, create_folders=self.mirror is not None)
            except (FileLeft, OSError) as error:
                self._trees[root] = error
        found = self._trees[root]
        if isinstance(found, Exception):
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
    """Put back what was there before an export, where nobody has changed the file since.

    Files that cannot be reached are remembered, so that another undo can put them back. So are files that somebody has
    changed: their undo comes after that of all other exports.
    """
    done, is_complete = Restored(), True
    with open_tree(b"/") as tree:
        for page in stored.sidecars_of(db, change_id):
            settled: list[bytes] = []
            for known in page:
                try:
                    _restore(tree, known, done)
                    settled.append(known.path)
                except FileAway as error:
                    done.keep(known.path, str(error))
                    is_complete = False
                except (FileLeft, OSError) as error:
                    done.fail(known.path, error)
                    is_complete &= not isinstance(error, OSError)
            stored.forget_sidecars(db, settled)
    if is_complete:
        stored.finish_undo(db, change_id)
    return done


def _restore(tree: Tree, known: KnownSidecar, done: Restored) -> None:
    name = known.path.lstrip(b"/")
    present = tree.read(name)
    digest = None if present is None else digest_of(present.data)
    if present is None:
        if known.image is not None and _folder(known.image) == _folder(known.path):
            is_there = tree.state(known.image.lstrip(b"/")) is not None
        else:
            is_there = tree.has_folder(_folder(known.path).lstrip(b"/"))
        if not is_there:
            raise FileAway("its image is not there: mount the disk and undo again")
        if known.before is None:
            return
    elif digest == digest_of(known.before):
        return  # it was never written, or is as it was
    elif not known.is_ours(digest):
        raise FileLeft("somebody changed it after the export")
    if known.before is not None:
        tree.write(name, known.before, present, known.mtime_ns)
        done.restored += 1
    elif present is not None:
        tree.remove(name, present)
        done.removed += 1


def _refuse_beside(image: bytes) -> None:
    """Raise FileLeft for an image beside which nothing can be written."""
    where = "in an archive" if split_member(image) is not None else "in a bucket or on the web" if is_url(image) else ""
    if where:
        raise FileLeft(f"its image is {where}, where nothing is written: name a folder for a tree with -o")


def _folder(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _pages(places: Iterator[_Place]) -> Iterator[Sequence[_Place]]:
    while page := list(islice(places, _PAGE)):
        yield page
