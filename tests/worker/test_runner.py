"""The runner claims what it can process, and every exception has one place that says what happens to the chunk."""

from pathlib import Path
from typing import Any

import pytest

from captioning.errors import (
    BundleError,
    CaptioningError,
    DecodePoolUnavailable,
    DeviceFailed,
    DeviceOutOfMemory,
    FolderUnavailable,
    LeaseLost,
    RootUnavailable,
    StoreUnavailable,
)
from captioning.model.pixels import Preprocessing
from captioning.store import jobs
from tests.worker.conftest import SIZE, LocalWorker, png
from worker.lifecycle import request_stop
from worker.runner import BACKOFF_SECONDS, DISPOSITIONS, Disposition, disposition_of

NOTHING = Disposition(release=False)
SERVICE = Disposition(backs_off=True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LeaseLost("x"), NOTHING),
        (StoreUnavailable("x"), NOTHING),
        (DeviceFailed("x"), Disposition(counts_as_attempt=True)),
        (FolderUnavailable("x"), Disposition(defer=True, backs_off=True)),
        (RootUnavailable("x"), SERVICE),
        (DeviceOutOfMemory("x"), SERVICE),
        (DecodePoolUnavailable("x"), SERVICE),
        (BundleError("x"), SERVICE),
        (CaptioningError("x"), SERVICE),
    ],
)
def test_the_first_matching_row_decides(error: Exception, expected: Disposition) -> None:
    assert disposition_of(error) == expected


@pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError("boom"), KeyError("boom")])
def test_a_bug_counts_as_an_attempt_and_is_named_with_its_type(error: Exception) -> None:
    disposition = disposition_of(error)
    assert (disposition.release, disposition.counts_as_attempt, disposition.backs_off) == (True, True, True)
    assert disposition.message(error) == f"{type(error).__name__}: {error}"


def test_no_row_is_hidden_behind_an_earlier_one() -> None:
    kinds = [kind for kind, _ in DISPOSITIONS]
    assert not any(issubclass(later, kind) for i, kind in enumerate(kinds) for later in kinds[i + 1 :])
    assert kinds[-1] is Exception


@pytest.mark.parametrize(
    ("error", "attempts", "deferrals", "backoff_seconds", "last_error"),
    [
        (DeviceFailed("a sticky error"), 1, 0, 0.0, "a sticky error"),  # it backs off from the second attempt on
        (FolderUnavailable("a folder is gone"), 0, 1, BACKOFF_SECONDS, "a folder is gone"),
        (DeviceOutOfMemory("no memory"), 0, 0, BACKOFF_SECONDS, "no memory"),
        (ValueError("boom"), 1, 0, BACKOFF_SECONDS, "ValueError: boom"),
    ],
)
def test_a_chunk_that_failed_is_released_as_its_row_says(
    local: LocalWorker, error: Exception, attempts: int, deferrals: int, backoff_seconds: float, last_error: str
) -> None:
    local.submit({"a.png": png(1)})
    local.captioner.error = error
    runner = local.runner()
    with pytest.raises(type(error)) as raised:
        runner.process_chunk(runner.claim())
    assert raised.value is error
    row = local.row("SELECT state, attempts, deferrals, last_error, lease_until - leased_at AS backoff FROM chunks")
    assert row[:4] == ("pending", attempts, deferrals, last_error)
    assert row.backoff == pytest.approx(backoff_seconds, abs=0.1)


@pytest.mark.parametrize("error", [LeaseLost("taken over"), StoreUnavailable("no answer")])
def test_a_chunk_that_cannot_be_released_waits_until_its_lease_expires(local: LocalWorker, error: Exception) -> None:
    local.submit({"a.png": png(1)})
    local.captioner.error = error
    runner = local.runner()
    with pytest.raises(type(error)):
        runner.process_chunk(runner.claim())
    assert local.row("SELECT state, attempts, last_error FROM chunks") == ("running", 0, None)


def test_a_processed_chunk_completes_its_job(local: LocalWorker, events: list[Any]) -> None:
    job = local.submit({"a.png": png(1), "copy.png": png(1), "b.png": b"no image"})
    local.process_all()
    assert jobs.progress(local.db, job)[0].is_finished
    (done,) = [event for event in events if event["event"] == "chunk_done"]
    assert {key: done[key] for key in ("job", "chunk", "captioned", "reused", "failed")} == {
        "job": job,
        "chunk": 1,
        "captioned": 1,
        "reused": 1,
        "failed": 1,
    }
    assert done["seconds"] > 0


def test_a_chunk_is_released_at_once_when_a_stop_is_requested(
    local: LocalWorker, events: list[Any], tmp_path: Path
) -> None:
    job = local.submit({"a.png": png(1), "b.png": png(2)})
    local.captioner.before = lambda: request_stop(tmp_path / "state")
    runner = local.runner(batch_size=1, worker_state_dir=tmp_path / "state")
    runner.process_chunk(runner.claim())
    assert local.row("SELECT state, captioned, attempts, deferrals FROM chunks") == ("pending", 1, 0, 0)
    assert jobs.progress(local.db, job)[0].done == 1
    assert events[-1]["event"] == "chunk_released"
    assert (events[-1]["reason"], events[-1]["job"]) == ("a stop was requested", job)


def test_nothing_is_claimed_or_announced_after_a_stop_request(local: LocalWorker, tmp_path: Path) -> None:
    local.submit({"a.png": png(1)})
    runner = local.runner(worker_state_dir=tmp_path)
    request_stop(tmp_path)
    assert runner.claim() is None
    assert runner.claimable_chunks() == 0


def test_a_lost_lease_is_logged_with_the_ids_of_job_and_chunk(local: LocalWorker, events: list[Any]) -> None:
    job = local.submit({"a.png": png(1)})
    runner = local.runner()
    claim = runner.claim()
    assert claim is not None
    local.captioner.before = lambda: local.take_over(claim)
    with pytest.raises(LeaseLost):
        runner.process_chunk(claim)
    (lost,) = [event for event in events if event["event"] == "lease_lost"]
    assert (lost["job"], lost["chunk"]) == (job, claim.chunk_id)
    assert local.row("SELECT state, worker FROM chunks") == ("running", "w2")


def test_a_lease_that_is_lost_while_the_chunk_is_released_is_logged_too(local: LocalWorker, events: list[Any]) -> None:
    local.submit({"a.png": png(1)})
    runner = local.runner()
    claim = runner.claim()
    assert claim is not None
    local.captioner.before = lambda: local.take_over(claim)
    local.captioner.error = DeviceOutOfMemory("no memory")
    with pytest.raises(LeaseLost):
        runner.process_chunk(claim)
    assert [event["event"] for event in events] == ["lease_lost"]


def test_only_chunks_of_visible_roots_are_claimed(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    (local.folder / "a.png").unlink()
    assert local.runner().claim() is None
    (local.folder / "a.png").write_bytes(png(1))
    assert local.runner().claim() is not None


def test_a_worker_with_a_list_of_roots_serves_no_other_root(local: LocalWorker, tmp_path: Path) -> None:
    local.submit({"a.png": png(1)})
    assert local.runner(roots={"other": tmp_path}).claim() is None
    moved = local.folder.rename(tmp_path / "mounted here")
    runner = local.runner(roots={"images": moved})
    runner.process_chunk(runner.claim())
    assert [state for _, state, _ in local.items()] == ["captioned"]


def test_a_lease_outlasts_a_slow_batch_within_bounds(local: LocalWorker) -> None:
    runner = local.runner(lease_seconds=60)
    assert runner.lease_seconds == 60
    runner.adaptive_batch.seconds = 100.0
    assert runner.lease_seconds == 300
    runner.adaptive_batch.seconds = 10_000.0
    assert runner.lease_seconds == 1200


def test_a_lease_is_never_shorter_than_decoding_may_take(local: LocalWorker) -> None:
    assert local.runner(lease_seconds=10, decode_timeout_seconds=20).lease_seconds == 30


def test_each_image_size_has_a_decode_pool_of_its_own(local: LocalWorker) -> None:
    runner = local.runner()
    for key, size in (("first", SIZE), ("second", SIZE), ("third", 2 * SIZE)):
        local.captioner.preprocessing = Preprocessing(size=size)
        local.submit({f"{key}.png": png(size)}, key=key, force=True)
        runner.process_chunk(runner.claim())
    assert local.sizes == [SIZE, 2 * SIZE]
