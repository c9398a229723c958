"""Submit: what it registers, which jobs it continues, and which deleted files it notices."""

import os
import shutil
from pathlib import Path

import pytest

from captioning.errors import UsageError
from captioning.settings import Settings
from captioning.store import captions, jobs
from captioning.store.database import Database
from captioning.store.presence import FileIdSet, mark_missing
from captioning.values import DecodeOptions
from producer.dry_run import dry_run
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, Submitted, submit
from tests.store.helpers import LSTM


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("a.jpg", "b.jpg", "c.jpg", "drafts/d.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def request_for(*paths: Path, limit: int | None = None, **filters: tuple[str, ...]) -> SubmitRequest:
    sources = read_sources([os.fsencode(path) for path in paths])
    return SubmitRequest(sources, Filters(**filters), LSTM, DecodeOptions(), limit=limit)


def names(store: Database) -> list[str]:
    """Return the names of all files that the store lists."""
    return sorted(Path(row.path).name for row in captions.export_rows(store))


def test_files_are_registered_in_transactions_of_a_limited_size(
    store: Database, settings: Settings, folder: Path
) -> None:
    scanned: list[int] = []
    submitted = submit(store, settings, request_for(folder), lambda done: scanned.append(done.scanned), 3)
    assert scanned == [3, 4]
    assert (submitted.queued, submitted.known, submitted.continued) == (4, 0, False)
    assert jobs.progress(store, submitted.job)[0].registered


def test_the_same_submit_continues_its_job_and_another_one_gets_its_own(
    store: Database, settings: Settings, folder: Path
) -> None:
    def submit_job(request: SubmitRequest) -> Submitted:
        return submit(store, settings, request, lambda _: None)

    first = submit_job(request_for(folder))
    again = submit_job(request_for(folder))
    other = submit_job(request_for(folder, limit=2))
    assert (again.job, again.continued) == (first.job, True)
    assert (other.job, other.continued) == (first.job + 1, False)


def test_a_job_is_named_after_its_first_path(store: Database, settings: Settings, folder: Path) -> None:
    submit(store, settings, request_for(folder), lambda _: None)
    submit(store, settings, request_for(folder / "a.jpg", folder / "b.jpg"), lambda _: None)
    assert [job.name for job in jobs.progress(store)] == ["a.jpg and 1 more", "images"]


@pytest.mark.parametrize("filters", [{}, {"exclude": ("drafts/*",)}, {"include": ("[ab].jpg",)}])
def test_a_deleted_file_is_no_longer_listed_whatever_the_filters(
    store: Database, settings: Settings, folder: Path, filters: dict[str, tuple[str, ...]]
) -> None:
    submit(store, settings, request_for(folder), lambda _: None)
    (folder / "a.jpg").unlink()
    submit(store, settings, request_for(folder, **filters), lambda _: None)
    assert names(store) == ["b.jpg", "c.jpg", "d.jpg"]  # files that a filter hides exist, so they stay listed


def test_deleted_files_are_looked_for_page_by_page(store: Database, settings: Settings, folder: Path) -> None:
    submit(store, settings, request_for(folder), lambda _: None)
    shutil.rmtree(folder / "drafts")
    (folder / "b.jpg").unlink()
    for page_size in (1, 3, 4):
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE files SET missing_since = NULL")
        assert mark_missing(store, [os.fsencode(folder)], FileIdSet(), page_size).missing == 2
        assert names(store) == ["a.jpg", "c.jpg"]


def test_a_limited_submit_marks_deleted_files_too(store: Database, settings: Settings, folder: Path) -> None:
    submit(store, settings, request_for(folder), lambda _: None)
    (folder / "c.jpg").unlink()
    submit(store, settings, request_for(folder, limit=1), lambda _: None)
    assert names(store) == ["a.jpg", "b.jpg", "d.jpg"]


def test_a_submit_without_images_creates_no_job(store: Database, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    (tmp_path / "notes" / ".b.jpg").touch()
    with pytest.raises(UsageError, match=r"no images found \(skipped: 1 \.txt file, 1 hidden file\)"):
        submit(store, settings, request_for(tmp_path / "notes"), lambda _: None)
    assert jobs.progress(store) == []


def test_a_dry_run_counts_what_a_submit_would_take(settings: Settings, folder: Path) -> None:
    filtered = dry_run(None, settings, request_for(folder, exclude=("drafts/*",)))
    assert (filtered.scanned, filtered.skipped) == (3, {"filtered": 1})
    assert dry_run(None, settings, request_for(folder, limit=2)).scanned == 2
    assert dry_run(None, settings, request_for(folder / "a.jpg")).scanned == 1
