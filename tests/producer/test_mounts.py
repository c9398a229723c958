"""What a submit marks as missing when disks are mounted and unmounted. Nobody outside the tests sees the mounts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.cli_runner import CliRunner
from tests.support.cli_server import CliServer, cli_server
from tests.support.mount_namespace import MountNamespace, mount_namespace

pytestmark = pytest.mark.processes


class Library:
    """A folder of images in a namespace, and the commands that look at it. Nothing is captioned here."""

    def __init__(self, cli: CliRunner, namespace: MountNamespace, server: CliServer, folder: Path) -> None:
        self.namespace = namespace
        self._server = server
        self.folder = folder
        self._environment = cli.env | {"CAPTIONING_BROKER_URL": "redis://127.0.0.1:9/0"}
        folder.mkdir()

    def write(self, *names: str) -> None:
        for name in names:
            self.namespace.run("mkdir", "-p", (self.folder / name).parent)
            self.namespace.run("sh", "-c", f"echo {name} > '{self.folder / name}'")

    def remove(self, name: str) -> None:
        self.namespace.run("rm", "-r", self.folder / name)

    def submit(self, path: str = "") -> str:
        """Submit the folder, or a path below it; return all that is printed."""
        return self._producer("submit", str(self.folder / path))

    def listed(self) -> set[str]:
        """Return the paths below the folder of the files that an export lists."""
        rows = [json.loads(line) for line in self._producer("export").splitlines() if line.startswith("{")]
        return {str(Path(row["path"]).relative_to(self.folder)) for row in rows}

    def _producer(self, *arguments: str) -> str:
        _, out, err = self._server.run("producer", arguments, self._environment)
        return out + err


@pytest.fixture(scope="module")
def namespace() -> Iterator[MountNamespace]:
    with mount_namespace() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def server(namespace: MountNamespace) -> Iterator[CliServer]:
    with cli_server(namespace.prefix) as server:
        yield server


@pytest.fixture
def library(cli: CliRunner, namespace: MountNamespace, server: CliServer, tmp_path: Path) -> Library:
    return Library(cli, namespace, server, tmp_path / "library")


def test_files_of_a_disk_below_the_folder_stay_when_it_is_unmounted(library: Library) -> None:
    disk = library.folder / "disk"
    library.namespace.mount_tmpfs(disk)
    library.write("a.jpg", "b.jpg", "disk/c.jpg", "disk/d/e.jpg")
    library.submit()
    library.namespace.unmount(disk)
    library.remove("a.jpg")
    output = library.submit()
    assert library.listed() == {"b.jpg", "disk/c.jpg", "disk/d/e.jpg"}
    assert f"2 files are not found, but the disk that was mounted at {disk} is not mounted there now" in output
    assert "1 file that is gone from there is marked as missing" in output


def test_files_stay_when_the_folder_itself_was_a_mount_point_that_vanished(library: Library) -> None:
    library.namespace.mount_tmpfs(library.folder)
    library.write("a.jpg", "b/c.jpg")
    library.submit()
    library.namespace.unmount(library.folder)
    assert "2 files are not found" in library.submit()  # the mount point is empty
    library.folder.rmdir()
    assert f"{library.folder}: no such file or folder. 2 files are not found" in library.submit()
    assert library.listed() == {"a.jpg", "b/c.jpg"}


def test_files_of_a_bind_mount_of_the_same_file_system_stay(library: Library, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    library.namespace.bind(other, library.folder / "bound")
    library.write("a.jpg", "bound/b.jpg")
    library.submit()
    library.namespace.unmount(library.folder / "bound")
    library.submit()
    assert library.listed() == {"a.jpg", "bound/b.jpg"}


def test_a_mount_inside_a_mount_of_the_same_source_is_another_mount(library: Library) -> None:
    outer, inner = library.folder / "disk", library.folder / "disk" / "inner"
    library.namespace.mount_tmpfs(outer)
    library.write("disk/a.jpg", "disk/inner/x")
    library.namespace.run("mount", "-t", "tmpfs", "tmpfs", inner)
    library.write("disk/inner/b.jpg")
    library.submit()
    library.namespace.unmount(inner)
    library.remove("disk/a.jpg")
    library.submit()
    assert library.listed() == {"disk/inner/b.jpg"}


def test_a_disk_that_is_mounted_again_has_another_device_number_and_its_deleted_files_are_marked(
    library: Library,
) -> None:
    disk = library.folder / "disk"
    library.namespace.mount_tmpfs(disk)
    library.write("a.jpg", "disk/b.jpg", "disk/c.jpg")
    library.submit()
    library.namespace.unmount(disk)
    library.namespace.mount_tmpfs(library.folder.parent / "takes-the-device-number")
    library.namespace.mount_tmpfs(disk)
    library.write("disk/c.jpg")
    library.submit()
    assert library.listed() == {"a.jpg", "disk/c.jpg"}


def test_a_file_that_moves_to_another_disk_is_marked_by_that_disk_from_then_on(library: Library) -> None:
    library.write("a.jpg", "sub/b.jpg")
    library.submit()
    library.namespace.mount_tmpfs(library.folder / "sub")
    library.write("sub/b.jpg")
    library.submit()
    library.remove("sub/b.jpg")
    library.submit()
    assert library.listed() == {"a.jpg"}
