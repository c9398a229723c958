"""What a worker's parent process and its pool process both need to know. The parent process never loads torch."""

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captioning.bundles import Bundles, find_bundles, named
from captioning.settings import Settings

if TYPE_CHECKING:  # imports SQLAlchemy
    from captioning.store.database import Database

STOP_FILE = "stop"
"""A file in the worker's state folder. When it exists, the pool process returns its chunk to the queue."""


def available_bundles(settings: Settings) -> Bundles:
    """Return this worker's models by name. Raises BundleError or UsageError when the default model is not there."""
    bundles = find_bundles(settings.bundle_folders)
    named(settings.model, bundles)
    return bundles


def worker_name(settings: Settings) -> str:
    """Return the name of this worker in the database. The pool process gets its parent's name as a setting."""
    return settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True)
class MountedRoot:
    """A root and its path on this machine."""

    name: str
    path: bytes

    def is_visible(self) -> bool:
        from worker.reader import is_visible

        return is_visible(self.path)


def served_roots(db: "Database", settings: Settings) -> dict[int, MountedRoot]:
    """Return the roots that have work and that this worker may serve, by id."""
    from captioning.store import claims

    roots = {}
    for root_id, name, path in claims.roots_with_work(db):
        if settings.roots and name not in settings.roots:
            continue
        roots[root_id] = MountedRoot(name, os.fsencode(settings.roots[name]) if name in settings.roots else path)
    return roots


def visible_roots(db: "Database", settings: Settings) -> dict[int, MountedRoot]:
    """Return the served roots that this machine sees, by id."""
    return {root_id: root for root_id, root in served_roots(db, settings).items() if root.is_visible()}


def stop_requested(settings: Settings) -> bool:
    """Return whether this worker was asked to stop."""
    return settings.worker_state_dir is not None and (settings.worker_state_dir / STOP_FILE).exists()
