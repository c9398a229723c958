"""Images that kill, hang or bloat whoever opens them, and files and folders that change under way."""

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from captioning.store import jobs
from tests.faults.stub_captioner import oracle
from tests.faults.world import World, make_images, png
from tests.support.servers import wait_until

POISONS = {
    "X1a": ("CRASH", "crashed", "an image makes its decoder crash"),
    "X1b": ("HANG", "timeout", "an image makes its decoder hang"),
    "X1c": ("BLOAT", "too_large", "an image makes its decoder want all memory"),
}


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        pytest.param(
            word, reason, marks=pytest.mark.cell(name, what, quick=name != "X1c", sqlite=name == "X1a"), id=name
        )
        for name, (word, reason, what) in POISONS.items()
    ],
)
def test_a_poisonous_image_fails_alone_by_name(world: World, word: str, reason: str) -> None:
    (world.images / "poison.png").write_bytes(png(77, word))
    worker = world.worker()
    world.submit()
    world.struck()
    wait_until(world.is_over, 60, "the job")
    world.recovered_seconds = time.time() - world.struck_at
    world.check({"truncated": 1, reason: 1})
    assert [f.path for f in jobs.failures(world.db, world.job) if f.reason == reason] == [f"{world.images}/poison.png"]
    assert world.alive(worker)


@pytest.mark.cell("X1d", "ten hanging images come first, another job waits behind them")
def test_poison_does_not_hold_up_another_job(world: World) -> None:
    poison = world.folder / "poison"
    poison.mkdir()
    for i in range(10):
        (poison / f"{i}.png").write_bytes(png(500 + i, "HANG"))
    world.worker(FAULTS_TURN="3")
    world.producer("submit", str(poison))
    first = world.job
    wait_until(lambda: world.one("SELECT count(*) FROM chunks WHERE state = 'running'") == 1, 30, "the poison in hand")
    world.submit()
    world.struck()
    second = world.job
    wait_until(lambda: jobs.progress(world.db, second)[0].is_finished, 60, "the other job")
    assert not jobs.progress(world.db, first)[0].is_finished
    world.recovered_seconds = time.time() - world.struck_at
    wait_until(world.is_over, 90, "the poison to be found out")
    assert jobs.reasons(world.db, first) == {"timeout": 10}
    assert jobs.reasons(world.db, second) == {"truncated": 1}


@pytest.mark.cell("X2", "every image of a job is poison")
def test_a_job_of_nothing_but_poison_ends(world: World) -> None:
    for path in world.images.iterdir():
        path.unlink()
    for i in range(12):
        (world.images / f"poison-{i}.png").write_bytes(png(i, "CRASH"))
    worker = world.worker()
    world.submit()
    world.struck()
    wait_until(world.is_over, 60, "the job")
    world.recovered_seconds = time.time() - world.struck_at
    world.check({"crashed": 12})
    assert world.alive(worker)
    assert worker.cpu_percent(interval=2.0) < 50


@pytest.mark.cell("X3a", "the folder of images is unmounted in the middle of a job and comes back")
def test_a_root_that_goes_away_blames_no_image(world: World) -> None:
    world.settings |= {"FAULTS_SECONDS": "0.2", "FAULTS_BACKOFF": "1"}
    world.worker()
    world.submit()
    world.wait_done(8)
    away = world.images.with_name("away")
    world.images.rename(away)
    world.images.mkdir()
    time.sleep(4)
    world.images.rmdir()
    away.rename(world.images)
    world.struck()
    world.faults = 3
    world.recover()


def in_two_folders(world: World) -> Path:
    """Spread the images over two folders, in chunks that hold files of both; return the second."""
    second = world.images / "b"
    second.mkdir()
    for i in range(1, 40, 2):
        for path in world.images.glob(f"{i:04d}.png"):
            path.rename(second / path.name)
    return second


@pytest.mark.cell(
    "X3c", "a disk below the root is away for 6 s; every chunk has images on it and beside it", sqlite=True
)
def test_a_folder_below_the_root_that_goes_away_blames_no_image(world: World) -> None:
    world.settings |= {"FAULTS_SECONDS": "0.2", "FAULTS_BACKOFF": "1"}
    below = in_two_folders(world)
    world.submit()
    world.worker()
    world.wait_done(4)
    away = world.folder / "away"
    below.rename(away)
    below.mkdir()
    wait_until(lambda: any("is empty" in said for said, _ in jobs.last_errors(world.db, world.job)), 30, "a reason")
    time.sleep(6)
    assert str(below) in world.producer("status").stdout
    below.rmdir()
    away.rename(below)
    world.struck()
    world.faults = 8
    world.recover()
    assert jobs.last_errors(world.db, world.job) == []


@pytest.mark.cell("X3d", "a folder below the root is deleted in the middle of a job")
def test_images_whose_folder_is_gone_for_good_are_missing(world: World) -> None:
    below = in_two_folders(world)
    world.submit()
    shutil.rmtree(below)
    world.worker()
    world.struck()
    wait_until(world.is_over, 60, "the job")
    world.recovered_seconds = time.time() - world.struck_at
    world.check({"truncated": 1, "missing": 18})


@pytest.mark.cell("X3b", "some files are deleted after they were registered")
def test_a_file_that_is_gone_is_missing(world: World) -> None:
    world.submit()
    for i in (1, 30):
        (world.images / f"{i:04d}.png").unlink()
    world.worker()
    world.struck()
    wait_until(world.is_over, 60, "the job")
    world.recovered_seconds = time.time() - world.struck_at
    world.check({"truncated": 1, "missing": 2})


@pytest.mark.cell("X4a", "files are replaced by others between registering and reading", quick=True)
def test_what_is_captioned_is_what_was_read(world: World) -> None:
    world.submit()
    for i in (5, 25):
        (world.images / f"{i:04d}.png").write_bytes(png(9000 + i))
    world.worker()
    world.struck()
    world.recover()
    world.submit()  # now their time of change is noticed, and their content is known
    world.recover()


@pytest.mark.cell("X4d", "images change, and a broken one is mended, before their job is over", sqlite=True)
def test_the_same_submit_again_takes_what_changed_since(world: World) -> None:
    world.settings["FAULTS_SECONDS"] = "0.2"
    world.submit()
    worker = world.worker()
    wait_until(
        lambda: world.one("SELECT count(*) FROM items WHERE state = 'failed'") == 1, 60, "the broken one to fail"
    )
    world.wait_done(8)
    world.kill(worker)
    for path in world.images.glob("00*.png"):
        path.write_bytes(png(9000 + int(path.stem)))  # captioned ones, one in hand perhaps, and some not begun
    (world.images / "cut-0.png").write_bytes(png(9999))
    world.struck()
    world.worker()
    world.producer("submit", str(world.images), "--wait")
    world.recovered_seconds = time.time() - world.struck_at
    assert world.job == 1
    rows = [json.loads(line) for line in world.producer("export").stdout.splitlines()]
    said = {Path(row["path"]): row["caption"] for row in rows}
    assert said == {path: oracle(hashlib.sha256(path.read_bytes()).hexdigest()) for path in world.images.iterdir()}


@pytest.mark.cell("X4b", "files are cut short between registering and reading")
def test_a_file_cut_short_is_truncated(world: World) -> None:
    world.submit()
    for i in (5, 25):
        path = world.images / f"{i:04d}.png"
        path.write_bytes(path.read_bytes()[:90])
        path.rename(world.images / f"cut-{i}.png")
        path.symlink_to(f"cut-{i}.png")
    world.worker()
    world.struck()
    wait_until(world.is_over, 60, "the job")
    for i in (5, 25):
        (world.images / f"{i:04d}.png").unlink()
    world.recovered_seconds = time.time() - world.struck_at
    world.check({"truncated": 3})


@pytest.mark.cell("X4c", "a file is written to all the time while it is read")
def test_a_file_that_changes_under_the_reader_is_changed_or_whole(world: World) -> None:
    busy = world.images / "busy.png"
    busy.write_bytes(png(4000))
    ended = threading.Event()

    def write() -> None:
        n = 0
        while not ended.is_set():
            n += 1
            busy.write_bytes(png(4000 + n % 50) * (1 + n % 3))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        world.worker()
        world.submit()
        world.struck()
        wait_until(world.is_over, 60, "the job")
    finally:
        ended.set()
        writer.join()
    world.recovered_seconds = time.time() - world.struck_at
    reasons = jobs.reasons(world.db, world.job)
    assert reasons.pop("truncated") >= 1
    assert set(reasons) <= {"changed", "unreadable"}
    assert sum(reasons.values()) <= 1


@pytest.mark.cell("X5", "two jobs of many images and one small, urgent one share two workers")
def test_an_urgent_job_goes_first_and_others_share(world: World) -> None:
    world.settings["FAULTS_SECONDS"] = "0.1"
    other = make_images(world.folder / "other", good=40, copies=0, bad=0)
    for path in other.iterdir():
        path.write_bytes(png(2000 + int(path.stem)))
    urgent = make_images(world.folder / "urgent", good=4, copies=0, bad=0)
    for path in urgent.iterdir():
        path.write_bytes(png(3000 + int(path.stem)))
    world.worker()
    world.submit()
    world.producer("submit", str(other))
    world.wait_done(8)
    world.struck()
    world.producer("submit", str(urgent), "--priority", "high")
    number = world.job
    wait_until(lambda: jobs.progress(world.db, number)[0].is_finished, 30, "the urgent job")
    world.recovered_seconds = time.time() - world.struck_at
    rest = [progress.done for progress in jobs.progress(world.db) if progress.job != number]
    assert max(rest) - min(rest) <= 12
    assert not world.is_over()
    wait_until(world.is_over, 60, "the others")
