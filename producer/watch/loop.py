"""The loop of `producer watch`: walk, follow changes, register what is whole.

The database is the only state. A walk at the start, and others later, find what was missed, so a watch that is killed
loses nothing.
"""

import os
import stat
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from threading import Event

from captioning.archives import is_archive
from captioning.errors import StoreUnavailable
from captioning.paths import text_of
from captioning.settings import Settings
from captioning.store import jobs
from captioning.store.database import Database
from captioning.store.files import FoundFile
from producer.dispatch import Dispatcher
from producer.sources import Sources, kinds
from producer.submit import SubmitRequest, register
from producer.watch.events import kernel_changes, no_changes, why_polled
from producer.watch.settle import Settling

YOUNG_SECONDS = 60.0  # a file that a walk finds waits like a changed one if its time is so near, also in the future
WALKS_SHARE = 10.0  # a walk is not begun before this many times the duration of the last one has passed


@dataclass(frozen=True)
class WatchOptions:
    """How folders are watched."""

    settle_seconds: float  # for which a file stays the same before it is taken
    poll_seconds: float | None  # between walks; None: changes come from the kernel
    rescan_seconds: float  # between walks that look for what was missed


@dataclass(frozen=True)
class Batch:
    """What was registered at once."""

    job: int
    queued: int  # images of the day's job that wait for a worker
    captioned: int  # images of the day's job that have a caption
    failed: int  # of the day's job
    gone: int  # files that are not there any more


@dataclass
class Watch:
    """A watch of folders. `report` is called with each batch, `notice` with what a person should know."""

    db: Database
    settings: Settings
    request: SubmitRequest
    options: WatchOptions
    dispatcher: Dispatcher
    report: Callable[[Batch], object]
    notice: Callable[[str], object]
    stopped: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self._settling = Settling(self.options.settle_seconds, look, time.monotonic)
        self._last_notice = ""
        self._roots: dict[bytes, Hashable] = {}  # what the folders are, while changes are followed
        self._next_walk = 0.0
        self._to_register: set[bytes] = set()  # whole paths that the database could not take yet

    @property
    def folders(self) -> tuple[bytes, ...]:
        return self.request.sources.folders

    def run(self) -> None:
        """Watch until `stopped` is set."""
        while not self.stopped.is_set():
            if any(not os.path.isdir(folder) for folder in self.folders):
                missing = next(folder for folder in self.folders if not os.path.isdir(folder))
                self._notice(f"{text_of(missing)} is gone or not mounted; waiting for it")
                self.stopped.wait(2.0)
                continue
            self._roots = self._identify()
            self._next_walk = 0.0
            try:
                self._follow(self._changes())
            except OSError as error:  # a folder has gone, or there are too many for the kernel
                if all(os.path.isdir(folder) for folder in self.folders):
                    self._poll_instead(f"the kernel does not watch these folders ({error.strerror or error})")

    def _changes(self) -> Iterator[set[bytes]]:
        why = "" if self.options.poll_seconds is not None else why_polled(self.folders)
        if why:
            self._poll_instead(why)
        return no_changes(self.stopped) if self.options.poll_seconds else kernel_changes(self.folders, self.stopped)

    def _poll_instead(self, why: str) -> None:
        self.options = replace(self.options, poll_seconds=60.0)
        self._notice(f"{why}: they are walked every minute (--poll)")

    def _follow(self, changes: Iterator[set[bytes]]) -> None:
        """Register what changes, until a folder is another one: a disk was mounted, for example."""
        for changed in changes:
            if self.stopped.is_set() or self._identify() != self._roots:
                return
            self._settling.touch(path for path in changed if may_matter(path))
            self._to_register.update(self._settling.take())
            try:
                if time.monotonic() >= self._next_walk:
                    self._walk()
                elif self._to_register:
                    self._register_changes()
                self.dispatcher.ensure_running()
                self._last_notice = ""
            except StoreUnavailable as error:  # what was found waits here
                self._notice(f"{error} Waiting for it.")

    def _identify(self) -> dict[bytes, Hashable]:
        return {folder: identity(folder) for folder in self.folders}

    def _walk(self) -> None:
        started = time.monotonic()
        self._register(self.request.sources, self._is_whole)
        seconds = time.monotonic() - started
        wanted = self.options.poll_seconds or self.options.rescan_seconds
        self._next_walk = time.monotonic() + max(wanted, WALKS_SHARE * seconds)

    def _is_whole(self, found: FoundFile) -> bool:
        """Return whether a file that a walk found can be taken; let it wait if somebody may still be writing it."""
        if found.path in self._to_register or abs(time.time() - found.mtime_ns / 1e9) > YOUNG_SECONDS:
            return True
        self._settling.touch([found.path])
        return False

    def _register_changes(self) -> None:
        paths = frozenset(self._to_register)
        gone = tuple(path for path in paths if not os.path.lexists(path))
        sources = Sources(self.folders, (), gone=gone, only=paths.difference(gone))
        self._register(sources, self._is_whole)
        self._to_register -= paths

    def _register(self, sources: Sources, take: Callable[[FoundFile], bool]) -> None:
        day = time.strftime("%Y-%m-%d")
        request = replace(self.request, sources=sources, watched_on=day)
        done = register(self.db, self.settings, request, lambda _: None, take=take)
        progress = jobs.progress(self.db, done.job)[0]
        queued = progress.total - progress.done
        if queued:
            self.dispatcher.wake_workers()
        captioned = progress.captioned + progress.reused
        self.report(Batch(done.job, queued, captioned, progress.failed, done.absent.missing))

    def _notice(self, text: str) -> None:
        if text != self._last_notice:
            self.notice(text)
        self._last_notice = text


def may_matter(path: bytes) -> bool:
    """Return whether a changed path may be an image, an archive, a folder, or one of them that is gone."""
    if kinds.is_image(path) or is_archive(path):
        return True
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:  # gone: it may have been a folder
        return True


def look(path: bytes) -> Hashable:
    """Return what a path is at the moment: size and times of a file, None if there is nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return ("folder",) if stat.S_ISDIR(found.st_mode) else (found.st_size, found.st_mtime_ns, found.st_ino)


def identity(folder: bytes) -> Hashable:
    """Return what tells a folder from another one at the same path; None if there is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
