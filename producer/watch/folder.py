"""One watched folder: whether it is there, how its changes are noticed, and when it is walked."""

import os
import time
from collections.abc import Hashable
from dataclasses import dataclass

from captioning.mounts import mounts_of
from captioning.paths import text_of
from producer.watch.events import MANY, Reports, why_unreported
from producer.watch.notices import Notices

POLL_SECONDS = 60.0  # between two walks of a folder that reports no changes
WALKS_SHARE = 10.0  # a walk is not begun before this many times the duration of the last one has passed


@dataclass(frozen=True)
class Timing:
    """How long a watch waits, in seconds."""

    settle: float = 2.0  # for which a file stays the same before it is taken
    rescan: float = 3600.0  # between two walks that look for what was missed
    poll: float | None = None  # between two walks, as a person asks for; None: as the folder needs


class WatchedFolder:
    """A folder that may be deleted or unmounted, and come back as another one.

    `wait_seconds` is how long a look for changes takes when there are none.
    """

    def __init__(self, path: bytes, timing: Timing, wait_seconds: float, notices: Notices) -> None:
        self.path = path
        self._timing, self._wait_seconds, self._notices = timing, wait_seconds, notices
        self._identity: Hashable = None
        self._poll = timing.poll
        self._reports: Reports | None = None
        self._next_walk = self._not_before = 0.0  # by the monotonic clock

    @property
    def is_present(self) -> bool:
        """Whether it was there when changes were last looked for."""
        return self._identity is not None

    @property
    def is_the_same(self) -> bool:
        """Whether it is still there as it was then, so that what is not found in it is gone."""
        return identify(self.path) == self._identity

    @property
    def is_walk_due(self) -> bool:
        return self.is_present and time.monotonic() >= self._next_walk

    def changes(self) -> set[bytes]:
        """Wait for changes; return their paths. When some are not known, a walk becomes due."""
        self._look()
        if self._reports is None:
            time.sleep(self._wait_seconds)
            return set()
        paths = self._reports.read(self._wait_seconds)
        if paths is None:
            self._close()
        if paths is None or len(paths) >= MANY:
            self._next_walk = self._not_before
        return paths or set()

    def begin_walk(self) -> None:
        """Open the reports first, so that nothing is missed."""
        if self._reports is None and self._poll is None:
            self._open()

    def end_walk(self, seconds: float) -> None:
        """Plan the next walk after one that took some seconds."""
        now = time.monotonic()
        self._not_before = now + WALKS_SHARE * seconds
        self._next_walk = max(now + (self._poll or self._timing.rescan), self._not_before)

    def _look(self) -> None:
        """Begin anew, with a walk, when the folder has come or gone, or something else is mounted on or in it."""
        before, self._identity = self._identity, identify(self.path)
        if self._identity == before:
            return
        self._close()
        self._poll = self._timing.poll
        line = "" if self.is_present else f"{text_of(self.path)} is gone or not mounted. Waiting for it."
        self._notices.update((self.path, "gone"), line)
        self._next_walk = self._not_before if before is not None else 0.0

    def _open(self) -> None:
        why = why_unreported(self.path)
        if not why:
            try:
                self._reports = Reports(self.path)
            except OSError as error:
                why = error.strerror or str(error)
        if why:
            self._poll = POLL_SECONDS
        line = f"{text_of(self.path)} is walked every minute: {why}." if why else ""
        self._notices.update((self.path, "polled"), line)

    def _close(self) -> None:
        if self._reports is not None:
            self._reports.close()
        self._reports = None


def identify(folder: bytes) -> Hashable:
    """Return what tells a folder, and what is mounted in it, from others at the same path; None if there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino, mounts_of(folder)
