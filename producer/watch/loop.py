"""The loop of `producer watch`: walk, follow changes, register what is whole.

The database is the only state. A walk at the start, and others later, find what was missed, so a watch that is killed
loses nothing.
"""

import os
import stat
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

from captioning.archives import is_archive, member_path, split_member
from captioning.paths import is_below
from captioning.settings import Settings
from captioning.store import jobs
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.presence import Absent, FileIdSet, mark_files_missing, mark_missing
from producer import submit as submitting
from producer.dispatch import Dispatcher
from producer.sources import kinds
from producer.submit import SubmitRequest, Submitted
from producer.watch.folder import Timing, WatchedFolder
from producer.watch.notices import Notices
from producer.watch.settle import Settling

TICK_SECONDS = 0.5  # for which all folders together are asked for changes, when there are none
YOUNG_SECONDS = 60.0  # a file that a walk finds waits like a changed one if its time is not so long ago
JOB_SECONDS = 86_400.0  # for which files go into the same job, by the database's clock


@dataclass(frozen=True)
class Batch:
    """What was registered at once."""

    job: int
    queued: int  # images that need work
    gone: int  # files that are not there any more


class Watch:
    """Keeps the database in step with the folders of a request. `report` is called with each batch."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        request: SubmitRequest,
        timing: Timing,
        dispatcher: Dispatcher,
        report: Callable[[Batch], object],
        notices: Notices,
    ) -> None:
        self._db, self._settings, self._request = db, settings, request
        self._dispatcher, self._report, self._notices = dispatcher, report, notices
        wait_seconds = TICK_SECONDS / len(request.sources.folders)
        self._folders = [WatchedFolder(path, timing, wait_seconds, notices) for path in request.sources.folders]
        self._walked: dict[bytes, Submitted] = {}  # by folder: the last walk
        self._settling = Settling(timing.settle, look, time.monotonic)
        self._settled: set[bytes] = set()  # paths that are to be registered
        self._with_files: set[bytes] = set()  # folders in which files were found, and those above them
        self._has_work = False  # once there was work, the embedded worker stays

    def run(self) -> None:
        """Watch until an exception ends it: KeyboardInterrupt, or CaptioningError when workers cannot run."""
        while True:
            self._notices.when_database_answers(self._step)

    def _step(self) -> None:
        """Wait a moment for changes, then register what has settled. What the database does not take is kept."""
        for folder in self._folders:
            self._settling.touch(path for path in folder.changes() if may_matter(path))
        self._settled.update(self._settling.take())
        for folder in self._folders:
            if folder.is_walk_due:
                self._walk(folder)
        present = [folder.path for folder in self._folders if folder.is_present]
        # a folder that is away, or another one, is walked when it is back
        paths = {path for path in self._settled if any(is_below(path, folder) and path != folder for folder in present)}
        if paths:
            self._register_some(paths)
        self._settled.clear()
        if self._has_work:
            self._dispatcher.ensure_running()

    def _walk(self, folder: WatchedFolder) -> None:
        """Do what `submit` does: register what is new or changed in a folder, and mark what is gone."""
        started = time.monotonic()
        folder.begin_walk()
        finder = replace(self._request, sources=replace(self._request.sources, folders=(folder.path,))).finder()
        submitted = self._open()
        seen = self._register(submitted, finder)
        absent = mark_missing(self._db, [folder.path], seen) if folder.is_the_same else Absent()
        submitted.skipped = finder.skipped
        self._walked[folder.path] = submitted
        self._close(submitted.job)
        seconds = time.monotonic() - started
        unreachable = " ".join(submitting.describe_absent(replace(absent, missing=0)))
        self._notices.update((folder.path, "unreachable"), unreachable)
        self._finish(submitted, absent)
        folder.end_walk(seconds)

    def _register_some(self, paths: Collection[bytes]) -> None:
        """Register what is at some paths and below them, and mark what is gone of it."""
        submitted = self._open()
        finder = replace(self._request, sources=replace(self._request.sources, only=frozenset(paths))).finder()
        seen = self._register(submitted, finder)
        absent = self._mark_gone(paths, seen)
        if not submitted.continued:
            self._close(submitted.job)
        self._finish(submitted, absent)

    def _open(self) -> Submitted:
        return submitting.open_submit(self._db, self._settings, self._request, JOB_SECONDS)

    def _register(self, submitted: Submitted, found: Iterable[FoundFile]) -> FileIdSet:
        def on_commit(submitted: Submitted) -> None:
            if submitted.work:
                self._dispatcher.start_early()

        return submitting.register(self._db, self._settings, self._request, submitted, self._whole(found), on_commit)

    def _whole(self, found: Iterable[FoundFile]) -> Iterator[FoundFile]:
        """Yield the files that have settled, or were not modified lately. The others wait."""
        for file in found:
            self._remember_folders(file.path)
            member = split_member(file.path)
            path = file.path if member is None else member[0]
            if path in self._settled or time.time() - file.mtime_ns / 1e9 > YOUNG_SECONDS:
                yield file
            else:
                self._settling.add(path)

    def _remember_folders(self, path: bytes) -> None:
        while (path := os.path.dirname(path)) not in self._with_files and path != b"/":
            self._with_files.add(path)

    def _mark_gone(self, paths: Collection[bytes], seen: FileIdSet) -> Absent:
        """Mark what is gone of some paths, and below those of them that had files. Other paths cost no query."""
        absent, _ = mark_files_missing(self._db, sorted(path for path in paths if not os.path.lexists(path)))
        folders = {*paths, *(member_path(path) for path in paths if is_archive(path))} & self._with_files
        return absent + mark_missing(self._db, sorted(folders), seen)

    def _close(self, job: int) -> None:
        """Record what the last walks of all folders have found."""
        total = Submitted(job, continued=True, model_id=0)
        for walked in self._walked.values():
            total.known += walked.known
            total.failed_before += walked.failed_before
            total.skipped += walked.skipped
        submitting.close(self._db, total)

    def _finish(self, submitted: Submitted, absent: Absent) -> None:
        """Wake workers if the job has work, and tell the person."""
        if submitted.work or not jobs.progress(self._db, submitted.job)[0].is_finished:
            self._has_work = True
            warnings: list[str] = []
            self._dispatcher.wake_workers(warnings.append)
            self._notices.update("broker", "".join(warnings))
        if submitted.work or absent.missing:
            self._report(Batch(submitted.job, submitted.work, absent.missing))


def may_matter(path: bytes) -> bool:
    """Return whether a changed path may be an image, an archive, a folder, or one of them that is gone."""
    if kinds.is_image(path) or kinds.may_have_partner(path) or is_archive(path):
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
    return found.st_ino if stat.S_ISDIR(found.st_mode) else (found.st_size, found.st_mtime_ns, found.st_ino)
