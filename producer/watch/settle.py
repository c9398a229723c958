"""Which changed paths are whole: a file is when it has stayed the same for a while.

A path waits from its last change on. Then it is looked at again, and waits once more if it is not the same. So only the
time of this process counts, not that of a file server.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

Look = Callable[[bytes], Hashable]
"""What a path is at the moment; the same as long as nobody changes it. For example its size and time, None if gone."""


@dataclass
class Settling:
    """Paths that wait until they stay the same for some seconds."""

    seconds: float
    look: Look
    clock: Callable[[], float]  # monotonic, seconds
    _waiting: dict[bytes, tuple[Hashable, float]] = field(
        default_factory=dict
    )  # what it was, and when; the oldest first

    def __len__(self) -> int:
        return len(self._waiting)

    def touch(self, paths: Iterable[bytes]) -> None:
        """Let paths wait, from now on, because they have changed."""
        for path in paths:
            self._waiting.pop(path, None)  # so that the first one waits for the longest time
            self._waiting[path] = (self.look(path), self.clock())

    def add(self, path: bytes) -> None:
        """Let a path wait, unless it does already: to find it again is no change."""
        if path not in self._waiting:
            self.touch([path])

    def take(self) -> list[bytes]:
        """Return the paths that have stayed the same for long enough; they do not wait any more."""
        now = self.clock()
        settled = []
        while self._waiting:
            path, (before, since) = next(iter(self._waiting.items()))
            if now - since < self.seconds:
                break
            del self._waiting[path]
            found = self.look(path)
            if found == before:
                settled.append(path)
            else:
                self._waiting[path] = (found, now)
        return settled
