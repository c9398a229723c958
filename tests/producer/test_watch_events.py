"""What a watch learns from the system about changes, and when it does not rely on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioning.mounts import mounts_of
from producer.watch.events import Reports, is_network
from tests.support.mount_namespace import mount_namespace

PROJECT = Path(__file__).parents[2]
REPORT_NEW_FOLDERS = """
import os, sys
from pathlib import Path
from producer.watch.events import Reports
folder = Path(sys.argv[1])
reports = Reports(os.fsencode(folder))
for number in range(int(sys.argv[2])):
    (folder / f"new-{number}").mkdir()
print(all(reports.read(0.5) is not None for _ in range(4)))
"""


def read_until_changed(reports: Reports) -> set[bytes] | None:
    paths: set[bytes] | None = set()
    while paths == set():
        paths = reports.read(0.5)
    return paths


def test_a_new_file_is_reported(tmp_path: Path) -> None:
    reports = Reports(os.fsencode(tmp_path))
    assert reports.read(0.05) == set()
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert read_until_changed(reports) == {os.fsencode(tmp_path / "a.jpg")}
    reports.close()


def test_after_a_name_that_is_not_utf8_nothing_is_relied_on(tmp_path: Path) -> None:
    reports = Reports(os.fsencode(tmp_path))
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):  # noqa: PTH123, pathlib has no bytes
        pass
    assert read_until_changed(reports) is None
    reports.close()


def test_a_folder_with_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102, pathlib has no bytes
    with pytest.raises(OSError, match="its name is not UTF-8"):
        Reports(folder)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.rclone", "fuse"])
def test_network_file_systems_are_polled(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", "ntfs3", "fuseblk"])
def test_local_file_systems_are_not_polled(kind: str) -> None:
    assert not is_network(kind)


@pytest.mark.processes
def test_what_is_mounted_in_a_folder_counts_too(tmp_path: Path) -> None:
    mount = (os.fsencode(tmp_path / "disk"), "tmpfs", "tmpfs")
    assert mount not in mounts_of(os.fsencode(tmp_path))
    with mount_namespace() as namespace:
        namespace.mount_tmpfs(tmp_path / "disk")
        script = "import sys, os; from captioning.mounts import mounts_of; print(mounts_of(os.fsencode(sys.argv[1])))"
        command = [*namespace.prefix, sys.executable, "-c", script, str(tmp_path)]
        result = subprocess.run(command, env={"PYTHONPATH": str(PROJECT)}, text=True, capture_output=True, check=True)
        assert repr(mount) in result.stdout


def report_new_folders(folder: Path, limit: int, number: int) -> subprocess.CompletedProcess[str]:
    """Watch a folder, as a user who may watch `limit` folders, while some are made in it."""
    set_limit = f'echo {limit} > /proc/sys/user/max_inotify_watches && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", set_limit, "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not create a user namespace")
    command = [*prefix, sys.executable, "-c", REPORT_NEW_FOLDERS, str(folder), str(number)]
    return subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=False)


@pytest.mark.processes
def test_too_many_folders_are_refused_with_what_raises_the_limit(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).mkdir()
    result = report_new_folders(tmp_path, limit=8, number=0)
    assert "more folders than this user may watch" in result.stderr
    assert "`sysctl fs.inotify.max_user_watches=" in result.stderr


@pytest.mark.processes
@pytest.mark.parametrize(("limit", "is_reported"), [(8, "False"), (20, "True")])
def test_new_folders_that_are_too_many_are_noticed(tmp_path: Path, limit: int, is_reported: str) -> None:
    assert report_new_folders(tmp_path, limit, number=10).stdout.strip() == is_reported


@pytest.mark.processes
def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can run a process of another user")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    command = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", REPORT_NEW_FOLDERS]
    result = subprocess.run([*command, str(tmp_path), "0"], cwd=PROJECT, text=True, capture_output=True, check=False)
    assert "a folder in it may not be read" in result.stderr
