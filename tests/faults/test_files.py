"""Files that change or disappear during a job, and folders that are unmounted, moved or deleted."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioning.store import jobs
from tests.faults.stub_captioner import expected_caption
from tests.faults.world import World, png
from tests.support.mount_namespace import MountNamespace, mount_namespace
from tests.support.polling import wait_until

# -- folders --


@pytest.mark.scenario("X3a", "the folder of images is unmounted in the middle of a job, and mounted again")
def test_an_unmounted_root_blames_no_image(world: World) -> None:
    world.settings |= {"FAULTS_SECONDS_PER_IMAGE": "0.2", "FAULTS_BACKOFF_SECONDS": "1"}
    world.start_worker()
    world.submit()
    world.wait_for_items(8)
    away = world.images.with_name("away")
    world.images.rename(away)
    world.images.mkdir()
    time.sleep(4)
    world.images.rmdir()
    away.rename(world.images)
    world.mark_fault()
    world.faults = 3
    world.wait_for_recovery()


def spread_over_two_folders(world: World) -> Path:
    """Move every second image to a folder below, so that every chunk has files in both; return that folder."""
    below = world.images / "b"
    below.mkdir()
    for i in range(1, 40, 2):
        for path in world.images.glob(f"{i:04d}.png"):
            path.rename(below / path.name)
    return below


@pytest.mark.scenario(
    "X3c", "a folder below the root is unmounted for 6 s; every chunk has images in it and outside", sqlite=True
)
def test_an_unmounted_folder_below_the_root_blames_no_image(world: World) -> None:
    world.settings |= {"FAULTS_SECONDS_PER_IMAGE": "0.2", "FAULTS_BACKOFF_SECONDS": "1"}
    below = spread_over_two_folders(world)
    world.submit()
    world.start_worker()
    world.wait_for_items(4)
    away = world.folder / "away"
    below.rename(away)
    below.mkdir()
    wait_until(
        lambda: any("is empty" in error for error, _ in jobs.last_errors(world.db, world.job)),
        30,
        "the job to report the empty folder",
    )
    time.sleep(6)
    assert str(below) in world.run_producer("status").stdout
    below.rmdir()
    away.rename(below)
    world.mark_fault()
    world.faults = 8
    world.wait_for_recovery()
    assert jobs.last_errors(world.db, world.job) == []


@pytest.mark.scenario("X3d", "a folder below the root is deleted in the middle of a job")
def test_images_of_a_deleted_folder_fail_as_missing(world: World) -> None:
    below = spread_over_two_folders(world)
    world.submit()
    shutil.rmtree(below)
    world.start_worker()
    world.mark_fault()
    world.wait_for_recovery(failures={"truncated": 1, "missing": 18})


# -- mounts: each test has a mount namespace of its own --


@pytest.fixture
def namespace(world: World) -> Iterator[MountNamespace]:
    """A mount namespace in which all commands of the world run from now on."""
    with mount_namespace() as namespace:
        world.prefix = namespace.prefix
        yield namespace


def listed(world: World) -> set[Path]:
    """Return the files that an export lists, as paths below the folder of images."""
    rows = [json.loads(line) for line in world.run_producer("export").stdout.splitlines()]
    return {Path(row["path"]).relative_to(world.images) for row in rows}


@pytest.mark.scenario(
    "X5a", "a bind mount of the same file system below the root is unmounted, and the folder is submitted again",
    sqlite=True,
)  # fmt: skip
def test_files_of_an_unmounted_bind_mount_stay_and_deleted_ones_go(world: World, namespace: MountNamespace) -> None:
    below = spread_over_two_folders(world)
    away = world.folder / "away"
    shutil.copytree(below, away)
    shutil.rmtree(below)
    namespace.bind(away, below)
    world.start_worker()
    world.run_producer("submit", str(world.images), "--wait", code=3)
    before = listed(world)
    namespace.unmount(below)
    (world.images / "0002.png").unlink()
    world.mark_fault()
    output = world.run_producer("submit", str(world.images), "--wait").stdout
    world.mark_recovery()
    assert "18 files are not found, but the disk" in output
    assert listed(world) == before - {Path("0002.png")}
    namespace.bind(away, below)
    world.run_producer("submit", str(world.images), "--wait")
    assert listed(world) == before - {Path("0002.png")}


@pytest.mark.scenario("X5b", "the folder of images was a mount point, and it vanishes with its disk", sqlite=True)
def test_files_stay_when_their_mount_point_vanishes(world: World, namespace: MountNamespace) -> None:
    away = world.images.rename(world.folder / "away")
    namespace.bind(away, world.images)
    world.start_worker()
    world.run_producer("submit", str(world.images), "--wait", code=3)
    before = listed(world)
    namespace.unmount(world.images)
    world.images.rmdir()
    world.mark_fault()
    output = world.run_producer("submit", str(world.images), code=2).stderr
    world.mark_recovery()
    assert "40 files are not found, but the disk" in output
    assert listed(world) == before
    world.images.mkdir()
    namespace.bind(away, world.images)
    world.run_producer("submit", str(world.images), "--wait")
    assert listed(world) == before


# -- files --


@pytest.mark.scenario("X3b", "some files are deleted between registration and reading")
def test_a_deleted_file_fails_as_missing(world: World) -> None:
    world.submit()
    for i in (1, 30):
        (world.images / f"{i:04d}.png").unlink()
    world.start_worker()
    world.mark_fault()
    world.wait_for_recovery(failures={"truncated": 1, "missing": 2})


@pytest.mark.scenario("X4a", "some files are replaced between registration and reading")
def test_a_replaced_file_gets_the_caption_of_its_new_content(world: World) -> None:
    world.submit()
    for i in (5, 25):
        (world.images / f"{i:04d}.png").write_bytes(png(9000 + i))
    world.start_worker()
    world.mark_fault()
    world.wait_for_recovery()
    world.submit()  # notices that the files changed; their content has a caption already
    world.wait_for_recovery()


@pytest.mark.scenario("X4d", "images change, and a broken one is repaired, before their job is done", sqlite=True)
def test_submitting_again_captions_what_changed_since(world: World) -> None:
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.2"
    world.submit()
    worker = world.start_worker()
    wait_until(
        lambda: world.scalar("SELECT count(*) FROM items WHERE state = 'failed'") == 1, 60, "the broken image to fail"
    )
    world.wait_for_items(8)
    world.kill(worker)
    for path in world.images.glob("00*.png"):  # images that are captioned, in progress, and not started
        path.write_bytes(png(9000 + int(path.stem)))
    (world.images / "cut-0.png").write_bytes(png(9999))
    world.mark_fault()
    world.start_worker()
    world.run_producer("submit", str(world.images), "--wait")
    world.mark_recovery()
    assert world.job == 1
    rows = [json.loads(line) for line in world.run_producer("export").stdout.splitlines()]
    captions = {Path(row["path"]): row["caption"] for row in rows}
    assert captions == {
        path: expected_caption(hashlib.sha256(path.read_bytes()).hexdigest()) for path in world.images.iterdir()
    }


@pytest.mark.scenario("X4b", "some files are truncated between registration and reading")
def test_a_truncated_file_fails_as_truncated(world: World) -> None:
    world.submit()
    links = [world.images / f"{i:04d}.png" for i in (5, 25)]
    for path in links:
        path.write_bytes(path.read_bytes()[:90])
        target = path.rename(world.images / f"cut-{path.name}")
        path.symlink_to(target.name)
    world.start_worker()
    world.mark_fault()
    world.wait_until_finished(60)
    world.mark_recovery()
    for path in links:  # `check_invariants` expects a caption for every file with such a name
        path.unlink()
    world.check_invariants({"truncated": 3})


@pytest.mark.scenario("X4c", "a file is overwritten continuously while it is read")
def test_a_file_that_is_overwritten_continuously_is_captioned_or_fails_as_changed(world: World) -> None:
    busy = world.images / "busy.png"
    busy.write_bytes(png(4000))
    ended = threading.Event()

    def overwrite() -> None:
        n = 0
        while not ended.is_set():
            n += 1
            busy.write_bytes(png(4000 + n % 50) * (1 + n % 3))

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        world.start_worker()
        world.submit()
        world.mark_fault()
        world.wait_until_finished(60)
    finally:
        ended.set()
        writer.join()
    world.mark_recovery()
    reasons = jobs.reasons(world.db, world.job)
    assert reasons.pop("truncated") >= 1
    assert set(reasons) <= {"changed", "unreadable"}
    assert sum(reasons.values()) <= 1
