"""Several chunks are in work at once: none holds up or harms another, and no content is captioned twice."""

import threading
import time
from collections.abc import Sequence
from math import inf

import numpy as np
import pytest

import worker.committing
from captioning.errors import DeviceFailed, DeviceOutOfMemory, StoreFault, StoreUnavailable
from captioning.model.pixels import Limits, Pixels, open_image
from captioning.store import jobs
from captioning.store.claims import Claim
from captioning.store.outcomes import Outcome
from captioning.values import Caption, DecodeOptions
from tests.support.polling import wait_until
from tests.worker.conftest import SIZE, LocalWorker, png
from worker.contents_in_flight import ContentsInFlight


def states(local: LocalWorker) -> dict[str, str]:
    return {path: state for path, state, _ in local.items()}


def work(local: LocalWorker, **values: int) -> list[Exception]:
    return local.runner(**values).work(inf, lambda: None)


def test_copies_in_several_chunks_are_captioned_once(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i % 3) for i in range(12)}, chunk_size=2)
    assert work(local, batch_size=1) == []
    assert sum(local.captioner.batches) == 3
    assert sorted(states(local).values()) == ["captioned"] * 3 + ["reused"] * 9
    assert local.row("SELECT sum(model_runs) FROM chunks") == (3,)


def test_a_chunk_that_is_held_up_holds_up_no_other(local: LocalWorker) -> None:
    job = local.submit({f"{i}.png": png(i) for i in range(8)}, chunk_size=2)
    first = threading.Lock()

    def hold_up_the_first() -> None:
        if first.acquire(blocking=False):
            wait_until(lambda: jobs.progress(local.db, job)[0].done == 6, 60, "the other chunks to be captioned")

    local.decode_pool.before = hold_up_the_first
    assert work(local, batch_size=2) == []
    assert set(states(local).values()) == {"captioned"}


def test_small_chunks_share_a_batch(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(8)}, chunk_size=2)
    local.captioner.before = lambda: wait_until(lambda: local.decode_pool.calls == 8, 30, "the others to be decoded")
    assert work(local, batch_size=6) == []
    assert max(local.captioner.batches) > 2


def test_an_error_of_the_model_ends_the_chunks_of_which_it_is(
    local: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.submit({f"{i}.png": png(i) for i in range(4)}, chunk_size=1)
    poison, _ = open_image(png(2), SIZE, Limits())
    caption = local.captioner.caption

    def caption_or_fail(images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        if any(np.array_equal(image, poison) for image in images):
            raise ValueError("a bug")
        return caption(images, options)

    monkeypatch.setattr(local.captioner, "caption", caption_or_fail)

    (error,) = work(local, batch_size=4)
    assert str(error) == "a bug"
    assert states(local)["2.png"] == "pending"
    assert local.row("SELECT count(*) FROM chunks WHERE attempts = 1") == (1,)


@pytest.mark.parametrize("error", [DeviceFailed("a sticky error"), DeviceOutOfMemory("no memory")])
def test_after_an_error_of_the_device_no_chunk_stays_claimed(local: LocalWorker, error: Exception) -> None:
    local.submit({f"{i}.png": png(i) for i in range(6)}, chunk_size=1)
    local.captioner.error = error
    if isinstance(error, DeviceFailed):
        with pytest.raises(DeviceFailed):
            work(local, batch_size=1)
    else:
        assert error in work(local, batch_size=1)
    assert local.row("SELECT count(*) FROM chunks WHERE state = 'running'") == (0,)
    assert set(states(local).values()) == {"pending"}


def test_a_commit_that_fails_ends_its_chunk_only(local: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    local.submit({f"{i}.png": png(i) for i in range(4)}, chunk_size=1)
    commit = worker.committing.results.commit_batch

    def refuse_one(db: object, claim: Claim, outcomes: list[Outcome], *rest: object) -> None:
        if claim.items[0].path == b"0.png":
            raise StoreFault("a value that cannot be stored")
        commit(db, claim, outcomes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.committing.results, "commit_batch", refuse_one)
    (error,) = work(local, batch_size=1)
    assert isinstance(error, StoreFault)
    assert states(local)["0.png"] == "pending"
    assert local.row("SELECT attempts, last_error FROM chunks WHERE seq = 1") == (1, "a value that cannot be stored")
    assert local.row("SELECT count(*) FROM chunks WHERE state = 'running'") == (0,)


def test_a_database_that_is_away_is_waited_for_once_and_not_for_each_chunk(
    local: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.submit({f"{i}.png": png(i) for i in range(6)}, chunk_size=1)
    attempts = []

    def fail(*arguments: object) -> None:
        attempts.append(arguments)
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(local.db, "retry_seconds", 0.0)
    monkeypatch.setattr(worker.committing.results, "commit_batch", fail)
    assert {str(error) for error in work(local, batch_size=1)} == {"no answer"}
    assert len(attempts) == 1
    assert set(states(local).values()) == {"pending"}


def test_a_stop_releases_every_chunk_and_keeps_what_is_captioned(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(12)}, chunk_size=4)
    runner = local.runner(batch_size=2)
    runner.stop_requested = lambda: bool(local.captioner.batches)  # type: ignore[method-assign]
    assert runner.work(inf, lambda: None) == []
    assert list(states(local).values()).count("captioned") == sum(local.captioner.batches) < 12
    assert local.row("SELECT count(*) FROM chunks WHERE state = 'running'") == (0,)
    assert local.row("SELECT max(attempts) FROM chunks") == (0,)


def test_nothing_more_is_claimed_after_the_time_of_a_task(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(6)}, chunk_size=1)
    local.captioner.before = lambda: time.sleep(0.2)
    assert local.runner(batch_size=1).work(0.1, lambda: None) == []
    assert 1 <= list(states(local).values()).count("captioned") < 6
    assert local.row("SELECT count(*) FROM chunks WHERE state = 'running'") == (0,)


@pytest.mark.parametrize(("batch_size", "least", "most"), [(2, 2, 4), (8, 4, 13)])
def test_as_many_chunks_are_in_work_as_the_batches_ahead_need(
    local: LocalWorker, batch_size: int, least: int, most: int
) -> None:
    """And no more, so that other workers get theirs: three batches, one of them in the model, and one chunk."""
    local.submit({f"{i}.png": png(i) for i in range(48)}, chunk_size=2)
    in_work: list[int] = []

    def count() -> None:
        if len(in_work) < 3:
            time.sleep(0.4)  # for claims that should not happen
        in_work.append(local.row("SELECT count(*) FROM chunks WHERE state = 'running'")[0])

    local.captioner.before = count
    assert work(local, batch_size=batch_size) == []
    assert least <= max(in_work[:3]) <= most
    assert set(states(local).values()) == {"captioned"}


def test_two_workers_share_a_job_of_few_chunks(local: LocalWorker) -> None:
    local.submit({f"{i}.png": png(i) for i in range(20)}, chunk_size=2)
    local.captioner.before = lambda: time.sleep(0.05)
    runners = [local.runner(batch_size=2) for _ in range(2)]
    done = [0, 0]

    def run(number: int) -> None:
        assert runners[number].work(inf, lambda: None) == []
        done[number] = runners[number].stages.now().images

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 20
    assert min(done) >= 4
    assert set(states(local).values()) == {"captioned"}


def test_batches_are_filled_from_parts_of_chunks_and_copies_follow_their_captions(local: LocalWorker) -> None:
    local.submit({f"{i:02}.png": png(min(i, 9)) for i in range(12)}, chunk_size=6)
    local.captioner.before = lambda: wait_until(lambda: local.decode_pool.calls == 10, 30, "the others to be decoded")
    runner = local.runner(batch_size=4)
    assert runner.work(inf, lambda: None) == []
    assert sum(local.captioner.batches) == 10
    assert max(local.captioner.batches) == 4
    assert sorted(states(local).values()) == ["captioned"] * 10 + ["reused"] * 2


def test_a_chunk_waits_for_content_of_another_one_until_that_is_committed(local: LocalWorker) -> None:
    local.submit({"a.png": png(1), "b.png": png(2)}, chunk_size=1)
    one, other = local.claim(), local.claim()
    contents, has_it = ContentsInFlight(), threading.Event()
    contents.take(one, ["x", "y"], lambda: False)
    thread = threading.Thread(target=lambda: (contents.take(other, ["y", "z"], lambda: False), has_it.set()))
    thread.start()
    assert not has_it.wait(0.3)
    contents.give_back(one, ["y"])
    assert has_it.wait(10)
    contents.give_all_back(other)
    contents.take(one, ["y", "z"], lambda: False)
