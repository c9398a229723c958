"""A watched folder that is never quiet, and a watch that is killed: in the end the database says what the disk says."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from captioning.store.captions import Selection, export_rows
from tests.faults.stub_captioner import expected_caption
from tests.faults.world import PROJECT, World, png
from tests.support.polling import wait_until

pytestmark = pytest.mark.stores("sqlite")
PART = 40  # bytes that a slow writer writes at once


@contextmanager
def watching(world: World, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `producer watch` on the images, and kill it at the end."""
    command = [sys.executable, "-m", "tests.faults.producer", "watch", str(world.images), "--settle", "0.5", *options]
    with (world.folder / "watch.log").open("ab") as log:
        process = subprocess.Popen(command, env=world.environment(), cwd=PROJECT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Disk:
    """Somebody who writes, renames, replaces and deletes images."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.number = 0

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.png"))

    def act(self) -> None:
        """Do one of the things that people and programs do to a folder."""
        kinds = [self.write, self.write, self.write_slowly, self.replace, self.rename, self.rename_folder, self.delete]
        self.chance.choice(kinds if self.files else [self.write])()

    def new(self) -> tuple[Path, bytes]:
        self.number += 1
        folder = self.folder / self.chance.choice(["", "a", "b/c", f"new-{self.number}"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.number:05d}.png", png(100_000 + self.number)

    def write(self) -> None:
        path, data = self.new()
        path.write_bytes(data)

    def write_slowly(self) -> None:
        path, data = self.new()
        with path.open("wb") as file:
            for start in range(0, len(data), PART):
                file.write(data[start : start + PART])
                file.flush()
                time.sleep(0.01)

    def replace(self) -> None:
        self.number += 1
        temporary = self.folder / ".unfinished"
        temporary.write_bytes(png(200_000 + self.number))
        temporary.replace(self.chance.choice(self.files))

    def rename(self) -> None:
        self.number += 1
        path = self.chance.choice(self.files)
        path.rename(path.with_name(f"renamed-{self.number}.png"))

    def rename_folder(self) -> None:
        self.number += 1
        folders = [path for path in self.folder.iterdir() if path.is_dir() and path.name != "a"]
        if folders:
            self.chance.choice(folders).rename(self.folder / f"moved-{self.number}")

    def delete(self) -> None:
        self.chance.choice(self.files).unlink()


def on_disk(folder: Path) -> dict[str, str]:
    """Return the caption that each good image must have."""
    return {str(path): expected_caption(sha256(path.read_bytes()).hexdigest()) for path in folder.rglob("*.png")
            if not path.name.startswith("cut-")}  # fmt: skip


def in_database(world: World) -> dict[str, str | None]:
    rows = export_rows(world.db, Selection())
    return {row.path: row.caption for row in rows if not Path(row.path).name.startswith("cut-")}


def agree(world: World) -> bool:
    return in_database(world) == on_disk(world.images)


def wait_until_they_agree(world: World, seconds: float) -> None:
    try:
        wait_until(lambda: agree(world), seconds, "the database to say what the disk says")
    except AssertionError:
        stored, real = in_database(world), on_disk(world.images)
        differing = {
            path: (stored.get(path), real.get(path)) for path in stored | real if stored.get(path) != real.get(path)
        }
        raise AssertionError(f"{len(differing)} files differ, for example {list(differing.items())[:3]}") from None


@pytest.mark.parametrize(
    ("actions", "kills"), [(60, 1), pytest.param(1000, 5, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("options", [(), ("--poll", "1")], ids=["kernel", "polling"])
def test_after_any_changes_and_kills_the_database_says_what_the_disk_says(
    world: World, options: tuple[str, ...], actions: int, kills: int
) -> None:
    world.start_worker()
    disk = Disk(world.images, seed=actions)
    for part in range(kills + 1):
        with watching(world, *options):
            started_at = time.monotonic()
            for _ in range(actions // (kills + 1)):
                disk.act()
                time.sleep(disk.chance.uniform(0, 0.05))
            if part == kills:
                wait_until_they_agree(world, 60 + actions / 10)
            else:
                time.sleep(disk.chance.uniform(0, 2.0))
            assert time.monotonic() > started_at
        disk.act()  # while nobody watches
    with watching(world, *options):
        wait_until_they_agree(world, 60 + actions / 10)


def test_a_folder_that_goes_away_is_waited_for_and_its_images_stay(world: World) -> None:
    world.start_worker()
    with watching(world) as process:
        wait_until_they_agree(world, 60)
        before = in_database(world)
        world.images.rename(world.folder / "away")
        wait_until(lambda: "waiting for it" in (world.folder / "watch.log").read_text(), 30, "the message")
        assert in_database(world) == before
        (world.folder / "away").rename(world.images)
        (world.images / "later.png").write_bytes(png(7))
        wait_until_they_agree(world, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
