"""What the page asks the server to do, as functions of the store. Files are named by their ids only."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from captioning.decoding.pool import DecodePool
from captioning.errors import UsageError
from captioning.store import details, edits, history, jobs, statistics
from captioning.store import review as queues
from captioning.store.database import Database
from captioning.store.details import DetailedFile
from producer.content import ContentReader
from producer.gallery.rows import FIELDS, Encoder
from producer.gallery.rows import details as details_of
from producer.gallery.thumbnails import SMALL, jpeg, read_content

MAX_ROWS = 500  # that a page asks for at once
_CACHED_BYTES = 200_000_000  # of JPEGs


@dataclass
class Actions:
    """The store and the decode processes of a review. Methods are called on several threads."""

    db: Database
    pool: DecodePool
    large: int  # pixels of the longer side
    reader: ContentReader
    where: str  # a query that all files of the review fulfil
    encoder: Encoder = field(default_factory=Encoder)
    _cache: "OrderedDict[tuple[str, str], bytes]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def meta(self) -> dict[str, Any]:
        """Return what the page needs before it asks for rows."""
        names = {job.job: job.name for job in jobs.progress(self.db)}
        store = hashlib.sha256(self.db.url.encode()).hexdigest()[:16]  # what the browser keeps is for this database
        return {"store": store, "fields": FIELDS, "large": self.large, "queues": list(queues.QUEUES),
                "jobs": [[job, name] for job, name in names.items()], "where": self.where}  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Return the sizes of the queues. Reads all files once."""
        return queues.queue_sizes(statistics.statistics(self.db))

    def queue(self, name: str, where: str) -> dict[str, Any]:
        """Return the ids of a queue. Raises UsageError for a query that cannot be read."""
        both = f"({self.where}) ({where})" if self.where and where else self.where or where
        return {"ids": queues.queue(self.db, name, both), "limit": queues.LIMIT}

    def rows(self, ids: list[int]) -> dict[str, Any]:
        """Return the rows of files, with the version of their captions."""
        return self._encoded(details.detailed_files(self.db, ids[:MAX_ROWS]))

    def details(self, file_id: int) -> dict[str, Any]:
        """Return the details of a file. Raises UsageError for one that the store does not know."""
        return details_of(self._file(file_id))

    def edit(self, file_id: int, version: str, action: str, text: str) -> dict[str, Any]:
        """Correct, accept or reject the caption of a file; return its row and the number of the change.

        Raises CaptionChanged when the file shows another caption than this version, UsageError for a bad text.
        """
        if action == "correct":
            edited = edits.correct(self.db, file_id, edits.checked_text(text), version)
        elif action == "accept":
            (edited,) = edits.accept(self.db, [file_id], version)
        elif action == "reject":
            (edited,) = edits.reject(self.db, [file_id], version)
        else:
            raise UsageError(f"there is no action {action!r}.")
        return self.rows([file_id]) | {"change": edited.change}

    def undo(self, change: int, file_id: int) -> dict[str, Any]:
        """Take a change back; return the row of the file that it was about."""
        history.undo(self.db, change)
        return self.rows([file_id])

    def image(self, file_id: int, kind: str) -> bytes:
        """Return a JPEG of a file, `small` or `large`. Raises UsageError, ImageError or OSError when there is none."""
        file = self._file(file_id).file
        if file.sha256 is None:
            raise UsageError("nobody has read this file.")
        key = (file.sha256, kind)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        data = read_content(self.reader, file)
        made = jpeg(self.pool.decode(data).pixels, SMALL if kind == "small" else self.large)
        with self._lock:
            self._cache[key] = made
            while sum(map(len, self._cache.values())) > _CACHED_BYTES:
                self._cache.popitem(last=False)
        return made

    def _file(self, file_id: int) -> DetailedFile:
        found = details.detailed_files(self.db, [file_id])
        if not found:
            raise UsageError(f"there is no file {file_id}.")
        return found[0]

    def _encoded(self, items: list[DetailedFile]) -> dict[str, Any]:
        with self._lock:
            rows = [self.encoder.row(item, (item.file.sha256 or "")[:16]) for item in items]
            names = {"roots": self.encoder.roots.values, "models": self.encoder.models.values}
        return {"rows": rows, "versions": [item.file.version for item in items], **names}
