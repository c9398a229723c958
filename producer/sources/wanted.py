"""Some paths below a folder: what a walk looks at when it is known what has changed."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable

from captioning.paths import is_below


class Wanted:
    """The part of a folder that a walk looks at: some paths below it, with everything below them."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._paths = frozenset(paths)
        self._names: defaultdict[bytes, set[bytes]] = defaultdict(set)  # by folder: what leads to the paths
        for path in self._paths:
            below = path
            while below:
                folder, name = os.path.split(below)
                self._names[folder].add(name)
                below = folder

    @classmethod
    def below(cls, folder: bytes, paths: Iterable[bytes]) -> "Wanted":
        """Return the part of a folder that has some paths, all absolute. Other paths are left out."""
        start = len(folder.rstrip(b"/")) + 1
        return cls(path[start:] for path in paths if is_below(path, folder))

    def names_in(self, folder: bytes) -> Collection[bytes] | None:
        """Return the names in a folder, given by its path below the walked one, that are looked at. None: all."""
        path = folder
        while path not in self._paths:
            if not path:
                return self._names.get(folder, ())
            path = os.path.dirname(path)
        return None


EVERYTHING = Wanted([b""])
