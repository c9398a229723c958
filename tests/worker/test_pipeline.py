"""The pipeline decides every item of a chunk; one bad file never fails the others."""

import contextvars
import threading
from collections.abc import Iterator

import pytest

import worker.pipeline
from captioning.errors import FolderUnavailable, LeaseLost, RootUnavailable
from captioning.values import ItemState
from tests.worker.conftest import BACKOFF_SECONDS, LEASE_SECONDS, LocalWorker, png
from worker.pipeline import LeaseKeeper
from worker.read_ahead import read_ahead


def never() -> bool:
    return False


def test_every_image_is_captioned_and_committed_batch_by_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(5)})
    pipeline = local.pipeline(local.claim(), batch_size=2)
    assert pipeline.run(never)
    assert local.captioner.batches == [2, 2, 1]
    assert pipeline.counts == {ItemState.CAPTIONED: 5}
    assert local.row("SELECT captioned, failed, model_runs FROM chunks") == (5, 0, 5)


def test_a_corrupt_image_fails_alone(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "b.png": b"not an image", "c.png": png(2)})
    assert local.pipeline(local.claim()).run(never)
    outcomes = [("a.png", "captioned", None), ("b.png", "failed", "unreadable"), ("c.png", "captioned", None)]
    assert sorted(local.items()) == outcomes


def test_copies_in_one_chunk_are_captioned_once(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "copy.png": png(1)})
    assert local.pipeline(local.claim()).run(never)
    assert local.captioner.batches == [1]
    assert [state for _, state, _ in local.items()] == ["captioned", "reused"]


def test_copies_of_a_corrupt_image_are_decoded_once_and_all_fail(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)[:60], "copy.png": png(1)[:60]})
    assert local.pipeline(local.claim(), batch_size=1).run(never)
    assert local.decode_pool.calls == 1
    assert [reason for _, _, reason in local.items()] == ["truncated", "truncated"]


def test_content_that_has_a_caption_is_not_decoded_again(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)}, key="first")
    local.process_all()
    local.submit({"renamed.png": png(1)}, key="second")
    claim = local.claim()
    local.captioner.batches, local.decode_pool.calls = [], 0
    assert local.pipeline(claim).run(never)
    assert local.captioner.batches == []
    assert local.decode_pool.calls == 0


def test_a_forced_job_captions_content_again(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)}, key="first")
    local.process_all()
    local.submit({"a.png": png(1)}, key="second", force=True)
    assert local.pipeline(local.claim()).run(never)
    assert local.captioner.batches == [1, 1]


def test_a_stop_request_ends_the_chunk_after_the_current_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(4)})
    assert not local.pipeline(local.claim(), batch_size=2).run(lambda: True)
    assert [state for _, state, _ in local.items()].count("pending") == 2


def test_a_turn_that_lasts_too_long_ends_after_the_current_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(4)})
    assert not local.pipeline(local.claim(), batch_size=1, turn_seconds=0.0).run(never)
    assert [state for _, state, _ in local.items()].count("captioned") == 1


def test_decoded_images_do_not_wait_for_slow_ones_of_their_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(3)})
    assert local.pipeline(local.claim(), partial_batch_seconds=0.0).run(never)
    assert local.captioner.batches == [1, 1, 1]


def test_a_batch_is_cut_short_before_its_files_fill_the_memory(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(3)})
    assert local.pipeline(local.claim(), batch_bytes=1).run(never)
    assert local.captioner.batches == [1, 1, 1]


def test_files_of_an_empty_folder_are_left_undecided_and_the_others_are_captioned(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "disk/b.png": png(2)})
    (local.folder / "disk" / "b.png").unlink()
    with pytest.raises(FolderUnavailable, match=r"is empty\. If this lasts, the files fail as missing"):
        local.pipeline(local.claim()).run(never)
    assert sorted(local.items()) == [("a.png", "captioned", None), ("disk/b.png", "pending", None)]


def test_files_of_an_empty_folder_fail_after_the_grace_period(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "disk/b.png": png(2)})
    (local.folder / "disk" / "b.png").unlink()
    assert local.pipeline(local.claim(), missing_grace_seconds=0).run(never)
    assert sorted(local.items()) == [("a.png", "captioned", None), ("disk/b.png", "failed", "missing")]


@pytest.mark.parametrize(("deferrals", "undecided"), [(0, True), (1, True), (2, False)])
def test_files_of_a_folder_that_is_gone_fail_after_a_shorter_period(
    local: LocalWorker, deferrals: int, undecided: bool
) -> None:
    assert worker.pipeline.FOLDER_GONE_SECONDS == 2 * BACKOFF_SECONDS
    local.submit({"a.png": png(1), "disk/b.png": png(2)})
    for _ in range(deferrals):
        claim = local.claim()
        worker.pipeline.leases.release(local.db, claim, defer=True)
    (local.folder / "disk" / "b.png").unlink()
    (local.folder / "disk").rmdir()
    pipeline = local.pipeline(local.claim())
    if undecided:
        with pytest.raises(FolderUnavailable, match="is gone"):
            pipeline.run(never)
    else:
        assert pipeline.run(never)


def test_no_file_fails_when_the_root_is_not_visible(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    (local.folder / "a.png").unlink()
    with pytest.raises(RootUnavailable):
        local.pipeline(local.claim()).run(never)
    assert local.items() == [("a.png", "pending", None)]


def test_a_worker_that_has_lost_its_lease_writes_nothing(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    claim = local.claim()
    local.captioner.before = lambda: local.take_over(claim)
    with pytest.raises(LeaseLost):
        local.pipeline(claim).run(never)
    assert local.items() == [("a.png", "pending", None)]
    assert local.row("SELECT count(*) FROM captions") == (0,)


def test_a_lease_is_extended_after_a_quarter_of_it_and_not_before(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    claim = local.claim()
    before = local.row("SELECT leased_at FROM chunks")
    LeaseKeeper(local.db, claim, LEASE_SECONDS).renew_if_due()
    assert local.row("SELECT leased_at FROM chunks") == before
    LeaseKeeper(local.db, claim, 0.0).renew_if_due()
    assert local.row("SELECT leased_at FROM chunks") != before


def test_a_death_of_a_decode_process_is_counted_on_the_item(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    local.decode_pool.deaths = 1
    assert local.pipeline(local.claim()).run(never)
    assert local.row("SELECT state, attempts FROM items") == ("captioned", 1)


# -- read_ahead --


def test_read_ahead_yields_everything_in_order() -> None:
    assert list(read_ahead(iter([3, None, 1]), 1)) == [3, None, 1]


def test_read_ahead_raises_an_exception_after_the_results_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    results = read_ahead(source(), 1)
    assert next(results) == 1
    with pytest.raises(ValueError, match="broken"):
        next(results)


def test_read_ahead_reads_no_further_than_requested() -> None:
    produced = []

    def source() -> Iterator[int]:
        for i in range(100):
            produced.append(i)
            yield i

    results = read_ahead(source(), 1)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert len(produced) <= 3
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_read_ahead_runs_its_source_in_the_context_of_the_reader() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("here")

    def source() -> Iterator[str]:
        yield variable.get()

    assert list(read_ahead(source(), 1)) == ["here"]
