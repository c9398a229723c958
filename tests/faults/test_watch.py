"""`producer watch` beside busy folders: killed, cut off from its database, and with its folder taken away."""

import os
import shutil
import signal
import subprocess
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from captioning.store import jobs
from tests.faults.watched import BusyFolder, wait_until_equal, watching
from tests.faults.world import World, make_images, png
from tests.support.mount_namespace import mount_namespace
from tests.support.polling import wait_until

pytestmark = pytest.mark.processes
how = pytest.mark.parametrize("options", [(), ("--poll", "1")], ids=["reported", "polled"])


@pytest.fixture
def busy(world: World) -> BusyFolder:
    """The folder of the world, with five good images only."""
    shutil.rmtree(world.images)
    make_images(world.images, good=5, copies=0, bad=0)
    return BusyFolder(world.images, seed=1)


@how
@pytest.mark.stores("sqlite")
def test_a_watch_that_is_killed_once_ends_with_what_is_on_disk(
    world: World, busy: BusyFolder, options: tuple[str, ...]
) -> None:
    world.start_worker()
    with watching(world, *options) as watch:
        watch.wait_for("watching")
        for _ in range(30):
            busy.change_something()
        watch.kill()
        for _ in range(10):
            busy.change_something()
        watch.start()
        for _ in range(20):
            busy.change_something()
        wait_until_equal(world, 60)
        assert len(jobs.progress(world.db)) == 1, "one job a day"
        assert watch.stop(signal.SIGTERM) == 0
        assert not watch.has_printed("Traceback")


@how
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.stores("sqlite", "postgresql")
def test_a_thousand_files_a_thousand_changes_and_five_kills(
    world: World, busy: BusyFolder, options: tuple[str, ...]
) -> None:
    world.start_worker()
    with watching(world, *options) as watch:
        writers = busy.fill(writers=8, files=125, pause=0.1)
        for _ in range(5):
            for number in range(200):
                if number == 180:
                    watch.kill()
                with suppress(FileNotFoundError):  # a writer's folder was renamed between two steps
                    busy.change_something()
            watch.start()
        for writer in writers:
            writer.join()
        began = time.monotonic()
        wait_until_equal(world, 300)
        print(f"{len(busy.files())} files, equal after {time.monotonic() - began:.1f} s")
        assert not watch.has_printed("Traceback")


@pytest.mark.stores("sqlite")
def test_a_file_from_the_future_is_captioned_where_a_watch_polls(world: World, busy: BusyFolder) -> None:
    world.start_worker()
    with watching(world, "--poll", "1"):
        (world.images / "future.png").write_bytes(png(700))  # by a camera with a wrong clock
        os.utime(world.images / "future.png", (4e9, 4e9))
        wait_until_equal(world, 60)


@pytest.mark.stores("sqlite")
def test_a_folder_that_goes_away_is_waited_for_and_its_images_stay(world: World, busy: BusyFolder) -> None:
    world.start_worker()
    away = world.folder / "away"
    with watching(world) as watch:
        wait_until_equal(world, 60)
        world.images.rename(away)
        watch.wait_for("is gone or not mounted. Waiting for it.")
        (away / "new.png").write_bytes(png(700))
        assert world.scalar("SELECT count(*) FROM files WHERE missing_since IS NOT NULL") == 0
        away.rename(world.images)
        wait_until_equal(world, 60)
        (world.images / "later.png").write_bytes(png(800))
        wait_until_equal(world, 60)
        assert watch.log.read_text().count("gone or not mounted") == 1


@pytest.mark.stores("sqlite")
def test_a_disk_that_is_mounted_in_a_folder_is_watched_and_its_images_stay_when_it_goes(
    world: World, busy: BusyFolder
) -> None:
    with mount_namespace() as namespace:
        world.prefix = namespace.prefix
        world.start_worker()
        disk = world.images / "disk"
        with watching(world) as watch:
            wait_until_equal(world, 60)
            namespace.mount_tmpfs(disk)
            write = ["sh", "-c", 'cp "$1" "$2"', "sh", world.images / "0001.png"]
            namespace.run(*write, disk / "first.png")
            wait_until(lambda: count_present(world) == 6, 60, "the file of the disk")
            namespace.run(*write, disk / "second.png")
            wait_until(lambda: count_present(world) == 7, 60, "a later file of the disk")
            namespace.unmount(disk)
            watch.wait_for("is not mounted there now")
            assert count_present(world) == 7


def count_present(world: World) -> int:
    return int(world.scalar("SELECT count(*) FROM files WHERE missing_since IS NULL"))


@pytest.mark.stores("sqlite")
def test_a_folder_that_is_away_does_not_keep_another_one_from_being_watched(
    world: World, busy: BusyFolder, tmp_path: Path
) -> None:
    world.start_worker()
    with watching(world, str(tmp_path)) as watch:
        wait_until_equal(world, 60)
        tmp_path.rename(tmp_path.with_name("away"))
        watch.wait_for("is gone or not mounted")
        (world.images / "later.png").write_bytes(png(800))
        wait_until_equal(world, 60)


@pytest.mark.stores("postgresql")
def test_a_database_that_is_away_is_waited_for(world: World, busy: BusyFolder) -> None:
    assert world.postgres is not None
    world.postgres.stop()
    with watching(world) as watch:
        watch.wait_for("Waiting for it")
        world.postgres.start()
        world.start_worker()
        wait_until_equal(world, 90)
        world.postgres.stop()
        (world.images / "new.png").write_bytes(png(700))
        (world.images / "0001.png").unlink()
        wait_until(lambda: watch.log.read_text().count("Waiting for it") == 2, 30, "the second message")
        world.postgres.start()
        wait_until_equal(world, 90)
        assert watch.log.read_text().count("Waiting for it") == 2


@pytest.mark.stores("sqlite")
def test_names_that_are_not_utf8_are_captioned_too(world: World, busy: BusyFolder) -> None:
    world.start_worker()
    odd = os.fsencode(world.images) + b"/\xe9t\xe9"
    with watching(world) as watch:
        wait_until_equal(world, 60)
        os.mkdir(odd)  # noqa: PTH102, pathlib has no bytes
        shutil.copy(world.images / "0001.png", odd + b"/\xff.png")
        wait_until(lambda: count_present(world) == 6, 30, "the file")
        (world.images / "later.png").write_bytes(png(800))
        wait_until(lambda: count_present(world) == 7, 30, "a later file")
        assert not watch.has_printed("walked every minute")


@pytest.mark.stores("sqlite")
def test_a_folder_that_takes_the_place_of_another_one_leaves_nothing_of_it(world: World, busy: BusyFolder) -> None:
    world.start_worker()
    for name in ("old", "new"):
        (world.images / name).mkdir()
        (world.images / name / f"{name}.png").write_bytes(png(len(name) + 700 + ord(name[0])))
    with watching(world):
        wait_until_equal(world, 60)
        (world.images / "old").rename(world.folder / "away")
        (world.images / "new").rename(world.images / "old")
        wait_until_equal(world, 30)


@pytest.mark.stores("sqlite")
def test_an_archive_that_arrives_is_captioned_and_its_lost_members_are_marked(world: World, busy: BusyFolder) -> None:
    world.start_worker()
    pack(world.images / "pack.zip", "a.png", "b.png")
    with watching(world, "--archives"):
        wait_until(lambda: count_present(world) == 7, 30, "the members")
        pack(world.images / "pack.zip", "a.png")
        wait_until(lambda: count_present(world) == 6, 30, "a member to be marked")


def pack(archive: Path, *names: str) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for number, name in enumerate(names):
            file.writestr(name, png(700 + number))


@pytest.mark.slow  # the first walk of a folder that is polled comes after a minute
@pytest.mark.stores("sqlite")
def test_a_user_who_may_watch_few_folders_is_told_how_to_raise_the_limit_and_new_folders_are_polled(
    world: World, busy: BusyFolder
) -> None:
    limit = 'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"'
    world.prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh"]
    if subprocess.run([*world.prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not create a user namespace")
    world.start_worker(prefix=[])
    with watching(world) as watch:
        wait_until_equal(world, 60)
        assert not watch.has_printed("walked every minute")
        for number in range(6):
            (world.images / f"new-{number}" / "deep").mkdir(parents=True)
        watch.wait_for("sysctl fs.inotify.max_user_watches=")
        for number in range(6):
            (world.images / f"new-{number}" / "deep" / "a.png").write_bytes(png(800 + number))
        wait_until_equal(world, 100)
