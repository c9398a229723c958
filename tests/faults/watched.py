"""A watch that runs beside a busy folder: writers that write slowly, replace, rename and delete; and what must hold."""

import hashlib
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from tests.faults.stub_captioner import expected_caption
from tests.faults.world import PROJECT, World, png
from tests.support.polling import wait_until

SETTLE_SECONDS = 0.4


class WatchRunner:
    """Starts and kills `producer watch` on the images of a world."""

    def __init__(self, world: World, *options: str) -> None:
        self.world = world
        self.options = ("--settle", str(SETTLE_SECONDS), *options)
        self.log = world.folder / "watch.log"
        self.start()

    def start(self) -> None:
        """Start the watch, and wait for nothing."""
        command = [sys.executable, "-m", "tests.faults.producer", "watch", str(self.world.images), *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.world.prefix, *command], env=self.world.environment(), cwd=PROJECT, stdout=log, stderr=log
            )

    def has_printed(self, text: str) -> bool:
        return text in self.log.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until the watch has printed a text."""
        wait_until(lambda: self.has_printed(text), 30, f"{text!r} in the output")

    def kill(self) -> None:
        """End the watch with SIGKILL; it must run."""
        assert self.process.poll() is None, self.log.read_text()
        self.process.kill()
        self.process.wait()

    def stop(self, signal_number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(20)


@contextmanager
def watching(world: World, *options: str) -> Iterator[WatchRunner]:
    """Run a watch while the context lasts."""
    runner = WatchRunner(world, *options)
    try:
        yield runner
    finally:
        runner.process.kill()
        runner.process.wait()
        print(runner.log.read_text()[-4000:])  # shown when the test fails


class BusyFolder:
    """Changes the files of a folder at random. Every content is another one."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self._random = random.Random(seed)
        self._written = self._changes = 0

    def content(self) -> bytes:
        self._written += 1
        return png(100_000 + self._written)

    def write_slowly(self, path: Path, pause: float = 0.02) -> None:
        """Write a file in four parts."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.content()
        step = -(-len(data) // 4)
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(data), step):
                file.write(data[start : start + step])
                time.sleep(pause)

    def replace(self, path: Path) -> None:
        """Replace a file as careful programs do."""
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_bytes(self.content())
        temporary.replace(path)

    def fill(self, writers: int, files: int, pause: float) -> list[threading.Thread]:
        """Start threads that write files slowly, each into a folder of its own, which may be renamed meanwhile."""
        threads = [threading.Thread(target=self._write_many, args=(n, files, pause)) for n in range(writers)]
        for thread in threads:
            thread.start()
        return threads

    def _write_many(self, writer: int, files: int, pause: float) -> None:
        for number in range(files):
            with suppress(FileNotFoundError):  # the folder was renamed or deleted at this moment
                self.write_slowly(self.folder / f"w{writer}" / f"{writer}-{number}.png", pause)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*.png") if path.is_file())

    def folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir())

    def change_something(self) -> None:
        """Change one file or folder."""
        self._changes += 1
        number = self._changes
        action = self._random.choice(["new"] * 4 + ["replace", "rename", "overwrite", "delete", "folder", "nested"])
        files, folders = self.files(), self.folders()
        one = self._random.choice(files) if files else self.folder / "first.png"
        if action == "new" or not files:
            inside = self._random.choice([self.folder, *folders])
            self.write_slowly(inside / f"n{number}.png", 0.005)
        elif action == "replace":
            self.replace(one)
        elif action == "overwrite" and time.time() - one.stat().st_mtime > 0.5:  # two writers would damage it
            self.write_slowly(one, 0.005)
        elif action == "rename":
            one.rename(one.with_name(f"r{number}.png"))
        elif action == "delete":
            one.unlink()
        elif action == "nested":
            self.write_slowly(self.folder / f"d{number}" / "e" / "f" / "deep.png", 0.005)
        elif action == "folder" and folders:
            self.change_a_folder(self._random.choice(folders), number)

    def change_a_folder(self, folder: Path, number: int) -> None:
        """Rename a folder, or delete it now and then."""
        if self._random.random() < 0.2:
            shutil.rmtree(folder, ignore_errors=True)  # a writer may add a file meanwhile
        else:
            folder.rename(folder.with_name(f"m{number}"))


def contents_on_disk(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every image by its path below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.png")
        if path.is_file() and not path.name.startswith(".")
    }


def captions_in_database(world: World) -> dict[str, str | None]:
    """Return the SHA-256 of the content that has the file's caption, by path, of files that are not missing."""
    query = sa.text(
        "SELECT f.path, i.sha256, c.text FROM files f LEFT JOIN images i ON i.id = f.image_id"
        " LEFT JOIN captions c ON c.image_id = i.id WHERE f.missing_since IS NULL"
    )
    with world.db.reading() as connection:
        rows = connection.execute(query).all()
    return {row.path: row.sha256 if row.sha256 and row.text == expected_caption(row.sha256) else None for row in rows}


def wait_until_equal(world: World, seconds: float) -> None:
    """Wait until the database says what the disk says: every image has the caption of its content, no other file is."""
    on_disk = contents_on_disk(world.images)
    deadline = time.monotonic() + seconds
    while (in_database := captions_in_database(world)) != on_disk:
        if time.monotonic() > deadline:
            differences = {
                path: (on_disk.get(path), in_database.get(path, "no row"))
                for path in on_disk.keys() | in_database.keys()
                if on_disk.get(path) != in_database.get(path)
            }
            raise AssertionError(f"{len(differences)} of {len(on_disk)} differ: {dict(list(differences.items())[:5])}")
        time.sleep(0.2)
