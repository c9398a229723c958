"""What a worker's parent and its pool process both need to know of where they are. The parent never loads torch."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from captioning.bundles import Bundle, find_bundles, named
from captioning.settings import Settings
from captioning.store import leases
from captioning.store.database import Database
from worker.reader import is_visible

STOP_FILE = "CAPTIONMILL_STOP_FILE"
"""In a worker's environment: the file whose appearance tells its pool process to put its work down."""


def available_bundles(settings: Settings) -> dict[str, Bundle]:
    """Return the models of this worker by name. Raises BundleError or UsageError when the default isn't there."""
    bundles = find_bundles(settings.bundle_folders)
    named(settings.model, bundles)
    return bundles


def worker_name(settings: Settings) -> str:
    """Return the name by which rows know this worker: the parent process's, whichever process asks."""
    return settings.worker_name or f"{socket.gethostname()}-{os.environ.get('CAPTIONMILL_WORKER_PID', os.getpid())}"


@dataclass(frozen=True)
class Place:
    """Where a root lies on this machine."""

    name: str
    path: bytes


def visible_roots(db: Database, settings: Settings) -> dict[int, Place]:
    """Return the roots that have work, of those that we may and can see, by their ids."""
    places = {}
    for root_id, name, path in leases.roots_with_work(db):
        if settings.roots and name not in settings.roots:
            continue
        place = os.fsencode(settings.roots[name]) if name in settings.roots else path
        if is_visible(place):
            places[root_id] = Place(name, place)
    return places


def stopping() -> bool:
    """Tell whether this worker was asked to stop."""
    path = os.environ.get(STOP_FILE)
    return path is not None and Path(path).exists()
