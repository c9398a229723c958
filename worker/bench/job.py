"""A job over the images of a folder in a database of its own. It is lengthened as often as it takes to measure."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import migrations
from captioning.bundles import named
from captioning.errors import UsageError
from captioning.settings import Settings
from captioning.store import files, jobs
from captioning.store.database import Database
from captioning.store.files import FoundFile, ReusePolicy
from captioning.terminal import printable
from captioning.values import DecodeOptions
from worker.environment import available_bundles

_STEP = 1e-9  # of `length_power`: captions of other options are other captions, and these are the same ones


def find_files(folder: Path, most: int) -> list[FoundFile]:
    """Return the first regular files below a folder, in order of their names. Raises UsageError if there are none."""
    if not folder.is_dir():
        raise UsageError(f"{printable(str(folder))} is no folder: give a folder with images.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"{printable(str(folder))} cannot be read: give a folder with images that you may read.")
    found = list(islice(_walk(os.fsencode(folder)), most))
    if not found:
        raise UsageError(f"{printable(str(folder))} contains no files: give a folder with images.")
    return found


def _walk(root: bytes) -> Iterator[FoundFile]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(b"."))
        for name in sorted(name for name in names if not name.startswith(b".")):
            path = folder + b"/" + name
            try:
                status = os.lstat(path)
            except OSError:  # it has just been removed
                continue
            if stat.S_ISREG(status.st_mode):
                yield FoundFile(os.path.relpath(path, root), status.st_size, status.st_mtime_ns)


@contextmanager
def temporary_settings(settings: Settings) -> Iterator[Settings]:
    """Provide settings with a new, empty SQLite database and a state folder, which are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as folder:
        url = f"sqlite:///{folder}/captions.sqlite"
        state = Path(folder, "state")
        state.mkdir()
        changes: dict[str, Any] = {"database_url": url, "database_password_file": None, "worker_state_dir": state}
        changes |= {"roots": {}, "worker_name": ""}
        own = settings.model_copy(update=changes)
        db = Database.open(own)
        migrations.ensure_schema(db)
        db.close()
        yield own


@dataclass
class BenchJob:
    """Queues the files of a folder again and again."""

    settings: Settings
    db: Database
    folder: Path
    found: list[FoundFile]
    options: DecodeOptions = field(default_factory=DecodeOptions)
    rounds: int = 0

    def __post_init__(self) -> None:
        bundle = named(self.settings.model, available_bundles(self.settings))
        self._model_id = jobs.register_model(self.db, bundle, default=self.settings.model)
        path = os.fsencode(self.folder.resolve())
        files.ensure_root(self.db, path)
        (root,) = files.roots(self.db)
        self._root_id = root.id

    def queue(self, images: int) -> None:
        """Queue all files as often as it takes for so many images, once at least. No caption is reused."""
        queued = 0
        while queued < max(1, images):
            self._queue_once()
            queued += len(self.found)

    def _queue_once(self) -> None:
        self.rounds += 1
        options = replace(self.options, length_power=self.options.length_power + self.rounds * _STEP)
        name = f"bench {self.rounds}"
        request = jobs.JobRequest(name, name, options, priority=-self.rounds)  # one after another
        job, _ = jobs.open_job(self.db, request, self._model_id)
        policy = ReusePolicy(self._model_id, self.settings.model, stale=False, force=True)
        files.register(self.db, job, self._root_id, self.found, policy, self.settings.chunk_size)
        jobs.close_registration(self.db, job, 0, {})
