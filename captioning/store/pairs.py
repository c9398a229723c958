"""Pairs: a RAW file, or the video of a Live Photo, and the image of the same name beside it.

A camera writes one photograph as several files. The one that is easiest to read, a JPEG or HEIC, is captioned; the
others share its content and its caption, as copies do, so what a person corrects holds for all of them. Workers read
the partner of such a file in its place. When the partner is deleted the caption stays. A RAW file with a partner that
cannot be decoded is captioned itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.paths import hash_of
from captioning.store.schema import File

if TYPE_CHECKING:
    from captioning.store.files import FoundFile


def partner_path(path: bytes, partner: bytes | None) -> bytes:
    """Return the path of the file that is read for a file."""
    if partner is None:
        return path
    folder, slash, _ = path.rpartition(b"/")
    return folder + slash + partner


@dataclass(frozen=True)
class Pairs:
    """What the store knows of the partners of some files that a walk found, by their paths."""

    images: dict[bytes, int | None]
    undecodable: frozenset[bytes]

    @classmethod
    def of(cls, connection: Connection, root_id: int, found: Sequence["FoundFile"]) -> "Pairs":
        """Look up the partners of files."""
        paths = {hash_of(path): path for f in found if f.partner and (path := partner_path(f.path, f.partner))}
        if not paths:
            return cls({}, frozenset())
        query = sa.select(File.path_hash, File.image_id, File.failed_capability_id)
        rows = connection.execute(query.where(File.root_id == root_id, File.path_hash.in_(list(paths)))).all()
        undecodable = frozenset(paths[row.path_hash] for row in rows if row.failed_capability_id is not None)
        return cls({paths[row.path_hash]: row.image_id for row in rows}, undecodable)

    def note_change(self, path: bytes) -> None:
        """Note that a file of the walk has lost its content. Partners come before the files that share theirs."""
        self.images[path] = None

    def partner(self, f: "FoundFile") -> bytes | None:
        """Return the name of the partner with which a file shares its caption; None if it is captioned itself."""
        if f.partner is None:
            return None
        is_usable = not f.has_pixels or partner_path(f.path, f.partner) not in self.undecodable
        return f.partner if is_usable else None

    def has_changed(self, f: "FoundFile", row: Any) -> bool:
        """Return whether a file no longer shares what its row says: the partner is another one, or was changed.

        The row has partner and image_id. Without a partner, what the file shared stays.
        """
        partner = self.partner(f)
        if partner is None:
            return row.partner is not None and (row.image_id is None or f.partner is not None)
        path = partner_path(f.path, partner)
        return partner != row.partner or (path in self.images and row.image_id != self.images[path])
