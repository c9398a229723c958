"""Disks that are full or read-only: the messages, and what still works. Each test has a mount namespace."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioning.store.database import Database
from producer.disks import LOOK_SECONDS, DiskWatch, shortage, write_error
from tests.journeys.cli_runner import CliRunner
from tests.support.cli_server import CliServer, cli_server
from tests.support.mount_namespace import MountNamespace, mount_namespace


def test_a_folder_that_can_be_written_to_gives_no_error_and_stays_empty(tmp_path: Path) -> None:
    assert write_error(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_little_space_counts_as_a_full_disk(tmp_path: Path) -> None:
    assert shortage(tmp_path, 10**18) == f"the disk of {tmp_path} is full: free some space"


def test_a_folder_that_takes_no_file_gives_an_error() -> None:
    assert "write to /proc/self" in write_error(Path("/proc/self"))


def test_an_error_lasts_when_every_look_finds_it(tmp_path: Path) -> None:
    seconds, folder = [0.0], tmp_path / "folder"
    folder.mkdir()
    watch = DiskWatch([Path("/proc/self"), folder], clock=lambda: seconds[0])
    assert watch.error_for(30) == ""
    seconds[0] = 29.0
    assert watch.error_for(30) == ""
    seconds[0] = 35.0
    assert "/proc/self" in watch.error_for(30)


def test_a_disk_that_has_space_again_starts_a_new_time(tmp_path: Path) -> None:
    seconds, folder = [0.0], tmp_path / "disk"
    folder.symlink_to("/proc/self")
    watch = DiskWatch([folder], clock=lambda: seconds[0])
    assert watch.error_for(0) != ""
    folder.unlink()
    folder.mkdir()
    seconds[0] += LOOK_SECONDS
    assert watch.error_for(0) == ""
    folder.rmdir()
    folder.symlink_to("/proc/self")
    seconds[0] += LOOK_SECONDS
    assert watch.error_for(30) == ""
    assert watch.error_for(0) != ""


class Programs:
    """`producer` inside a namespace, with a data folder on a disk of its own."""

    def __init__(self, cli: CliRunner, namespace: MountNamespace, server: CliServer) -> None:
        self.cli = cli
        self.namespace = namespace
        self.server = server
        self.data = cli.data

    def producer(self, *words: str, **environment: str) -> tuple[int, str, str]:
        """Run a command; return its exit code, standard output and standard error."""
        return self.server.run("producer", words, self.cli.env | environment)

    def failed_checks(self, **environment: str) -> dict[str, str]:
        """Return the messages of the doctor's checks that fail, by name."""
        code, out, err = self.producer("doctor", "--json", **environment)
        assert err == ""
        failed = {check["name"]: check["message"] for check in json.loads(out) if not check["ok"]}
        assert code == bool(failed)
        return failed


@pytest.fixture
def programs(cli: CliRunner) -> Iterator[Programs]:
    with mount_namespace() as namespace, cli_server(namespace.prefix) as server:
        yield Programs(cli, namespace, server)


@pytest.mark.processes
def test_the_doctor_sees_full_disks_and_creates_nothing(programs: Programs, tmp_path: Path) -> None:
    temporary, database = tmp_path / "temporary", tmp_path / "database"
    programs.data.mkdir()
    for folder in (programs.data, temporary, database):
        programs.namespace.mount_tmpfs(folder, "8m")
        programs.namespace.run("mkdir", folder / "runtime")
        programs.namespace.fill(folder)
    url = f"sqlite:///{database}/captions.sqlite"
    failed = programs.failed_checks(TMPDIR=str(temporary), CAPTIONING_DATABASE_URL=url)
    full = "the disk of {} is full: free some space, or set {} to a folder on another disk."
    assert failed == {
        "data folder": full.format(programs.data, "CAPTIONING_DATA_DIR"),
        "temporary folder": full.format(temporary, "TMPDIR"),
        "model cache": full.format(programs.data / "runtime", "CAPTIONING_DATA_DIR"),
        "database": full.format(database, "CAPTIONING_DATABASE_URL"),
    }
    listing = [*programs.namespace.prefix, "ls", "-A", programs.data, temporary, database]
    assert subprocess.check_output(listing, text=True).count("captions") == 0


@pytest.mark.processes
def test_reading_commands_work_in_a_read_only_data_folder_and_the_doctor_reports_it(
    programs: Programs, captioned_store: Database, photographs: Path
) -> None:
    captioned_store.close()
    programs.namespace.bind(programs.data, programs.data, read_only=True)
    assert programs.failed_checks() == {
        "data folder": f"the disk of {programs.data} is read-only: mount it for writing,"
        " or set CAPTIONING_DATA_DIR to a folder on another disk."
    }
    image = str(next(photographs.iterdir()))
    for words in (("status",), ("jobs",), ("search", "dogs"), ("export",), ("failures",), ("show", image), ("models",)):
        code, out, err = programs.producer(*words)
        assert (code, err) == (0, ""), (words, err)
        assert out, words


@pytest.mark.processes
@pytest.mark.parametrize("command", [("submit",), ("submit", "--wait")])
def test_a_submit_to_a_disk_without_any_space_is_one_line(
    programs: Programs, photographs: Path, command: tuple[str, ...]
) -> None:
    programs.data.mkdir()
    programs.namespace.mount_tmpfs(programs.data, "8m")
    programs.namespace.fill(programs.data)
    code, out, err = programs.producer(*command, str(photographs))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert f"the disk of {programs.data} is full" in err
