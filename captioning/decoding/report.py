"""What `doctor` says about decode processes: how they are confined, which formats they decode, why not the others."""

from collections import defaultdict
from contextlib import closing

from captioning.decoding.messages import Started
from captioning.decoding.pool import open_pool
from captioning.model import formats
from captioning.settings import Settings

_SIZE = 224  # of the squares, which are not asked for


def start_one(settings: Settings) -> Started:
    """Start a decode process, and end it. Return what it says about itself. Raises DecodePoolUnavailable."""
    with closing(open_pool(settings, _SIZE, 1)) as pool:
        return pool.started()


def describe(started: Started) -> str:
    """Return in one line how a decode process is confined and what it decodes."""
    off = defaultdict(list)
    for name in formats.EXTRA:
        if name not in started.formats:
            off[formats.needed_for(name)].append(name)
    parts = [str(started.confinement), f"decodes {', '.join(sorted(started.formats))}"]
    return "; ".join(parts + [f"{', '.join(names)} need {what}" for what, names in off.items()])
