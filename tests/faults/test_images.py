"""Images that crash, hang or exhaust the process that decodes them, and how jobs share the workers."""

import pytest

from captioning.store import jobs
from tests.faults.world import World, make_images, png
from tests.support.polling import wait_until

POISONS = {
    "X1a": ("CRASH", "crashed", "an image crashes its decode process"),
    "X1b": ("HANG", "timeout", "an image hangs its decode process"),
    "X1c": ("BLOAT", "too_large", "an image makes its decode process allocate all memory"),
}


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        pytest.param(
            word, reason, marks=pytest.mark.scenario(name, what, quick=name == "X1b", sqlite=name == "X1a"), id=name
        )
        for name, (word, reason, what) in POISONS.items()
    ],
)
def test_a_poisonous_image_fails_alone(world: World, word: str, reason: str) -> None:
    (world.images / "poison.png").write_bytes(png(77, word))
    worker = world.start_worker()
    world.submit()
    world.mark_fault()
    world.wait_for_recovery(failures={"truncated": 1, reason: 1})
    assert [f.path for f in jobs.failures(world.db, world.job) if f.reason == reason] == [f"{world.images}/poison.png"]
    assert world.is_alive(worker)


@pytest.mark.scenario("X1d", "a job begins with ten hanging images, another job waits behind it")
def test_hanging_images_do_not_delay_another_job(world: World) -> None:
    poison = world.folder / "poison"
    poison.mkdir()
    for i in range(10):
        (poison / f"{i}.png").write_bytes(png(500 + i, "HANG"))
    world.start_worker(FAULTS_TURN_SECONDS="3")
    world.run_producer("submit", str(poison))
    first = world.job
    wait_until(
        lambda: world.scalar("SELECT count(*) FROM chunks WHERE state = 'running'") == 1,
        30,
        "the worker to claim hanging images",
    )
    world.submit()
    world.mark_fault()
    second = world.job
    wait_until(lambda: jobs.progress(world.db, second)[0].is_finished, 60, "the second job")
    assert not jobs.progress(world.db, first)[0].is_finished
    world.mark_recovery()
    world.wait_until_finished(90, "the hanging images to fail")
    assert jobs.reasons(world.db, first) == {"timeout": 10}
    assert jobs.reasons(world.db, second) == {"truncated": 1}


@pytest.mark.scenario("X2", "every image of a job crashes its decode process")
def test_a_job_with_only_poisonous_images_ends(world: World) -> None:
    for path in world.images.iterdir():
        path.unlink()
    for i in range(12):
        (world.images / f"poison-{i}.png").write_bytes(png(i, "CRASH"))
    worker = world.start_worker()
    world.submit()
    world.mark_fault()
    world.wait_for_recovery(failures={"crashed": 12})
    assert world.is_alive(worker)
    assert worker.cpu_percent(interval=2.0) < 50


@pytest.mark.scenario("X5", "two jobs of many images and one small, urgent job share a worker")
def test_an_urgent_job_goes_first_and_the_others_share(world: World) -> None:
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.1"
    other = make_images(world.folder / "other", good=40, copies=0, bad=0)
    for path in other.iterdir():
        path.write_bytes(png(2000 + int(path.stem)))
    urgent = make_images(world.folder / "urgent", good=4, copies=0, bad=0)
    for path in urgent.iterdir():
        path.write_bytes(png(3000 + int(path.stem)))
    world.start_worker()
    world.submit()
    world.run_producer("submit", str(other))
    world.wait_for_items(8)
    world.mark_fault()
    world.run_producer("submit", str(urgent), "--priority", "high")
    number = world.job
    wait_until(lambda: jobs.progress(world.db, number)[0].is_finished, 30, "the urgent job")
    world.mark_recovery()
    finished = [progress.done for progress in jobs.progress(world.db) if progress.job != number]
    assert max(finished) - min(finished) <= 12
    assert not world.is_finished()
    world.wait_until_finished(60, "the other jobs")
