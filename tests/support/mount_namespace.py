"""A mount namespace of its own, in which a test may mount and unmount without anybody else seeing it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class MountNamespace:
    """A namespace that lasts as long as a process in it. `prefix` before a command runs it inside."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.prefix = ["nsenter", "--target", str(process.pid), "--mount", "--wdns=/"]

    def run(self, *command: str | Path) -> None:
        subprocess.run([*self.prefix, *command], check=True)

    def mount_tmpfs(self, folder: Path, size: str = "50%") -> None:
        """Mount an empty disk; `size` is as mount has it, 20m for example."""
        folder.mkdir(exist_ok=True)
        self.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)

    def fill(self, folder: Path) -> Path:
        """Fill the disk of a folder to the last byte with a file, and return its path."""
        ballast = folder / "ballast"
        subprocess.run(
            [*self.prefix, "sh", "-c", f"cat /dev/zero > '{ballast}'"], stderr=subprocess.DEVNULL, check=False
        )
        return ballast

    def bind(self, source: Path, folder: Path, *, read_only: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        self.run("mount", "--bind", source, folder)
        if read_only:
            self.run("mount", "-o", "remount,bind,ro", folder)

    def unmount(self, folder: Path) -> None:
        self.run("umount", folder)


@contextmanager
def mount_namespace() -> Iterator[MountNamespace]:
    """Create a namespace; skip the test where that is not allowed."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                pytest.skip("this user may not create a mount namespace")
            yield MountNamespace(process)
        finally:
            process.kill()
