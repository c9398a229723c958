"""The pipeline decides every item of a chunk; one bad file never fails the others."""

import threading

import pytest

import worker.chunk_work
from captioning.errors import FolderUnavailable, LeaseLost, RootUnavailable
from captioning.store import leases
from captioning.values import ItemState
from tests.worker.conftest import BACKOFF_SECONDS, LEASE_SECONDS, LocalWorker, png
from worker.chunk_work import LeaseKeeper


def test_every_image_is_captioned_and_committed_batch_by_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(5)})
    done = local.run(local.claim(), batch_size=2)
    assert done.is_done
    assert local.captioner.batches == [2, 2, 1]
    assert done.counts == {ItemState.CAPTIONED: 5}
    assert local.row("SELECT captioned, failed, model_runs FROM chunks") == (5, 0, 5)


def test_a_corrupt_image_fails_alone(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "b.png": b"not an image", "c.png": png(2)})
    assert local.run(local.claim()).is_done
    outcomes = [("a.png", "captioned", None), ("b.png", "failed", "unreadable"), ("c.png", "captioned", None)]
    assert sorted(local.items()) == outcomes


def test_copies_in_one_chunk_are_captioned_once(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "copy.png": png(1)})
    assert local.run(local.claim()).is_done
    assert local.captioner.batches == [1]
    assert [state for _, state, _ in local.items()] == ["captioned", "reused"]


def test_copies_of_a_corrupt_image_are_decoded_once_and_all_fail(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)[:60], "copy.png": png(1)[:60]})
    assert local.run(local.claim(), batch_size=1).is_done
    assert local.decode_pool.calls == 1
    assert [reason for _, _, reason in local.items()] == ["truncated", "truncated"]


def test_an_image_for_which_the_model_has_no_numbers_fails_and_its_copies_too(local: LocalWorker) -> None:
    local.submit({name: png(1) for name in ("a.png", "copy.png", "later.png")})
    local.captioner.text = ""
    assert local.run(local.claim(), batch_size=2).counts == {ItemState.FAILED: 3}
    assert [reason for _, _, reason in local.items()] == ["no_result"] * 3
    assert local.row("SELECT DISTINCT detail FROM items") == ("the model computed no numbers for it",)


def test_content_that_has_a_caption_is_not_decoded_again(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)}, key="first")
    local.process_all()
    local.submit({"renamed.png": png(1)}, key="second")
    claim = local.claim()
    local.captioner.batches, local.decode_pool.calls = [], 0
    assert local.run(claim).is_done
    assert local.captioner.batches == []
    assert local.decode_pool.calls == 0


def test_a_forced_job_captions_content_again(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)}, key="first")
    local.process_all()
    local.submit({"a.png": png(1)}, key="second", force=True)
    assert local.run(local.claim()).is_done
    assert local.captioner.batches == [1, 1]


def test_a_stop_request_ends_the_chunk_after_the_current_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(4)})
    local.stop = True
    assert not local.run(local.claim(), batch_size=2).is_done
    assert [state for _, state, _ in local.items()].count("pending") == 2


def test_a_turn_that_lasts_too_long_ends_after_the_current_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(4)})
    assert not local.run(local.claim(), batch_size=1, turn_seconds=0.0).is_done
    assert [state for _, state, _ in local.items()].count("captioned") == 1


def test_decoded_images_do_not_wait_for_slow_ones_of_their_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(3)})
    captioned = threading.Event()
    local.captioner.before = captioned.set
    local.decode_pool.before = lambda: local.decode_pool.calls < 2 or captioned.wait(20)
    assert local.run(local.claim(), partial_batch_seconds=0.0).is_done
    assert captioned.is_set()
    assert sum(local.captioner.batches) == 3
    assert len(local.captioner.batches) > 1


def test_a_batch_is_cut_short_before_its_files_fill_the_memory(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(3)})
    assert [len(batch) for batch in local.chunk(local.claim(), batch_bytes=1).batches()] == [1, 1, 1]


def test_files_of_an_empty_folder_are_left_undecided_and_the_others_are_captioned(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "disk/b.png": png(2)})
    (local.folder / "disk" / "b.png").unlink()
    with pytest.raises(FolderUnavailable, match=r"is empty\. If this lasts, the files fail as missing"):
        local.run(local.claim())
    assert sorted(local.items()) == [("a.png", "captioned", None), ("disk/b.png", "pending", None)]


def test_files_of_an_empty_folder_fail_after_the_grace_period(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "disk/b.png": png(2)})
    (local.folder / "disk" / "b.png").unlink()
    assert local.run(local.claim(), missing_grace_seconds=0).is_done
    assert sorted(local.items()) == [("a.png", "captioned", None), ("disk/b.png", "failed", "missing")]


@pytest.mark.parametrize(("deferrals", "undecided"), [(0, True), (1, True), (2, False)])
def test_files_of_a_folder_that_is_gone_fail_after_a_shorter_period(
    local: LocalWorker, deferrals: int, undecided: bool
) -> None:
    assert worker.chunk_work.FOLDER_GONE_SECONDS == 2 * BACKOFF_SECONDS
    local.submit({"a.png": png(1), "disk/b.png": png(2)})
    for _ in range(deferrals):
        claim = local.claim()
        leases.release(local.db, claim, defer=True)
    (local.folder / "disk" / "b.png").unlink()
    (local.folder / "disk").rmdir()
    claim = local.claim()
    if undecided:
        with pytest.raises(FolderUnavailable, match="is gone"):
            local.run(claim)
    else:
        assert local.run(claim).is_done


def test_no_file_fails_when_the_root_is_not_visible(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    (local.folder / "a.png").unlink()
    with pytest.raises(RootUnavailable):
        local.run(local.claim())
    assert local.items() == [("a.png", "pending", None)]


def test_a_worker_that_has_lost_its_lease_writes_nothing(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    claim = local.claim()
    local.captioner.before = lambda: local.take_over(claim)
    with pytest.raises(LeaseLost):
        local.run(claim)
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
    assert local.run(local.claim()).is_done
    assert local.row("SELECT state, attempts FROM items") == ("captioned", 1)
