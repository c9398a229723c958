"""Which files a submit takes again: changed ones, however the change shows; and which ones it does not try again."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from captioning.settings import Settings
from captioning.store import captions, claims, details, jobs, leases, results, workers
from captioning.store.database import Database
from captioning.store.outcomes import Content, Outcome
from captioning.store.workers import WorkerInfo
from captioning.values import PERMANENT_REASONS, Caption, DecodeCapability, DecodeOptions, ImageInfo, ItemState, Reason
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, Submitted, submit
from tests.store.helpers import LEASE_SECONDS, LSTM, PROVENANCE

CAN = DecodeCapability(formats=("JPEG", "PNG"), version=1, max_bytes=1000, max_pixels=1000)


class Library:
    """A folder of files, submits of it, and a worker that captions what begins with a letter."""

    def __init__(self, store: Database, settings: Settings, folder: Path) -> None:
        self.store = store
        self.settings = settings
        self.folder = folder
        folder.mkdir()

    def write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        return path

    def submit(self, on_commit: Callable[[Submitted], object] = lambda _: None, **options: bool) -> Submitted:
        request = SubmitRequest(read_sources([os.fsencode(self.folder)]), Filters(), LSTM, DecodeOptions(), **options)
        return submit(self.store, self.settings, request, on_commit)

    def work(self, can: DecodeCapability = CAN, reason: Reason = Reason.TRUNCATED) -> None:
        """Caption all that is queued; contents that begin with a digit fail."""
        while True:
            roots = [root_id for root_id, *_ in claims.roots_with_work(self.store)]
            claim = claims.claim(self.store, "w", [LSTM.digest], roots, LEASE_SECONDS)
            if claim is None:
                return
            outcomes = [self._outcome(item, reason) for item in claim.items]
            results.commit_batch(self.store, claim, outcomes, replace(PROVENANCE, capability=can), LEASE_SECONDS)
            leases.complete(self.store, claim)

    def _outcome(self, item: claims.ClaimedItem, reason: Reason) -> Outcome:
        data = (self.folder / os.fsdecode(item.path)).read_bytes()
        if data[:1].isdigit():
            is_permanent = reason in PERMANENT_REASONS
            return Outcome(item, ItemState.FAILED, reason=reason, detail="as arranged", is_permanent=is_permanent)
        content = Content(hashlib.sha256(data).hexdigest(), len(data), ImageInfo(1, 1, "PNG"))
        return Outcome(item, ItemState.CAPTIONED, content, Caption(data.decode(), (-0.5, -0.5)))

    def caption(self, name: str) -> str | None:
        rows = {Path(row.path).name: row for row in captions.export_rows(self.store)}
        return rows[name].caption


@pytest.fixture
def library(store: Database, settings: Settings, tmp_path: Path) -> Library:
    """A library whose workers run elsewhere, so that what they can decode is what their heartbeats say."""
    settings = settings.model_copy(update={"broker_url": "redis://127.0.0.1:9/0"})
    return Library(store, settings, tmp_path / "library")


def rewrite_unnoticed(path: Path, content: str) -> None:
    """Write as many other bytes, and put the time of modification back, as some programs do."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_text(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_other_bytes_of_the_same_size_and_time_are_a_change(library: Library) -> None:
    path = library.write("a.jpg", "one dog")
    library.submit()
    library.work()
    rewrite_unnoticed(path, "two cat")
    assert library.submit().queued == 1
    library.work()
    assert library.caption("a.jpg") == "two cat"


def test_a_new_ctime_with_the_same_bytes_changes_nothing(library: Library) -> None:
    path = library.write("a.jpg", "one dog")
    library.submit()
    library.work()
    path.chmod(0o600)
    submitted = library.submit()
    assert (submitted.known, submitted.queued) == (1, 0)
    assert library.caption("a.jpg") == "one dog"


def test_a_file_that_cannot_be_compared_now_is_compared_by_the_next_submit(library: Library) -> None:
    path, away = library.write("a.jpg", "one dog"), library.folder.parent / "away"
    library.submit()
    library.work()
    rewrite_unnoticed(path, "two cat")
    submitted = library.submit(on_commit=lambda _: path.rename(away) if path.exists() else None)
    assert (submitted.known, submitted.queued) == (1, 0)
    away.rename(path)
    assert library.submit().queued == 1


def test_verify_finds_bytes_that_changed_without_a_trace(library: Library) -> None:
    path = library.write("a.jpg", "one dog")
    library.submit()
    library.work()
    rewrite_unnoticed(path, "two cat")
    with library.store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE files SET ctime_ns = {path.stat().st_ctime_ns}")
    assert library.submit().queued == 0
    assert library.submit(verify=True).queued == 1
    library.work()
    assert library.caption("a.jpg") == "two cat"


def test_a_change_while_a_worker_reads_leaves_no_caption_of_the_old_bytes(library: Library) -> None:
    path = library.write("a.jpg", "one dog")
    library.submit()
    (root,) = (root_id for root_id, *_ in claims.roots_with_work(library.store))
    claim = claims.claim(library.store, "w", [LSTM.digest], [root], LEASE_SECONDS)
    assert claim is not None
    read_before = library._outcome(claim.items[0], Reason.TRUNCATED)
    rewrite_unnoticed(path, "two cat")
    library.submit()
    results.commit_batch(library.store, claim, [read_before], PROVENANCE, LEASE_SECONDS)
    assert library.caption("a.jpg") is None
    library.work()
    assert library.caption("a.jpg") == "two cat"


@pytest.mark.parametrize(
    ("reason", "is_final"),
    [
        (Reason.TRUNCATED, True),
        (Reason.UNREADABLE, True),
        (Reason.UNSUPPORTED, True),
        (Reason.TOO_LARGE, True),
        (Reason.FORBIDDEN, False),
        (Reason.TIMEOUT, False),
        (Reason.CRASHED, False),
    ],
)
def test_a_file_that_failed_for_a_lasting_reason_is_not_tried_again(
    library: Library, reason: Reason, is_final: bool
) -> None:
    library.write("a.jpg", "1")
    library.write("b.jpg", "dog")
    library.submit()
    library.work(reason=reason)
    again = library.submit()
    assert (again.scanned, again.known, again.failed_before, again.queued) == (2, 1, int(is_final), int(not is_final))
    progress = jobs.progress(library.store, again.job)[0]
    assert (progress.scanned, progress.failed_before) == (2, int(is_final))


def test_a_failed_file_is_tried_again_when_it_changes_or_on_request(library: Library) -> None:
    path = library.write("a.jpg", "1")
    library.submit()
    library.work()
    assert library.submit(force=True).failed_before == 1
    assert library.submit(retry_failed=True).queued == 1
    library.work()
    path.write_text("now a dog")
    assert library.submit().queued == 1
    library.work()
    assert library.caption("a.jpg") == "now a dog"
    assert jobs.failures(library.store, None) == []


@pytest.mark.parametrize(
    ("reason", "now", "is_tried"),
    [
        (Reason.UNSUPPORTED, CAN, False),
        (Reason.UNSUPPORTED, replace(CAN, formats=("JPEG",)), False),
        (Reason.UNSUPPORTED, replace(CAN, formats=("AVIF", "JPEG")), True),
        (Reason.UNSUPPORTED, replace(CAN, max_pixels=2000), False),
        (Reason.TOO_LARGE, replace(CAN, max_pixels=2000), True),
        (Reason.TOO_LARGE, replace(CAN, formats=("AVIF", "JPEG")), False),
        (Reason.TRUNCATED, replace(CAN, version=2), True),
    ],
)
def test_a_failed_file_is_tried_again_once_a_worker_can_decode_more(
    library: Library, reason: Reason, now: DecodeCapability, is_tried: bool
) -> None:
    library.write("a.jpg", "1")
    library.submit()
    library.work(reason=reason)
    workers.heartbeat(library.store, WorkerInfo("w", "host", (LSTM.digest,), "torch", now), [])
    assert library.submit().queued == int(is_tried)


def test_failures_show_each_file_once_and_as_it_is_now(library: Library) -> None:
    for name, content in (("a.jpg", "1"), ("b.jpg", "2"), ("c.jpg", "3")):
        library.write(name, content)
    first = library.submit()
    library.work()
    second = library.submit(retry_failed=True)
    library.work()
    assert [(f.job, Path(f.path).name) for f in jobs.failures(library.store, None)] == [
        (second.job, "a.jpg"), (second.job, "b.jpg"), (second.job, "c.jpg")
    ]  # fmt: skip
    library.write("a.jpg", "a dog")
    (library.folder / "b.jpg").unlink()
    library.submit()
    library.work()
    assert [Path(f.path).name for f in jobs.failures(library.store, None)] == ["c.jpg"]
    assert [Path(f.path).name for f in jobs.failures(library.store, first.job)] == ["c.jpg"]


def test_a_name_is_found_in_either_unicode_form(library: Library) -> None:
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    library.write(decomposed, "dog")
    library.submit()
    for name in (composed, decomposed):
        found = details.show(library.store, os.fsencode(library.folder / name))
        assert found is not None
        assert found[0].path.endswith(decomposed)
