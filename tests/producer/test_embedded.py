"""Embedded mode: one supervisor per data folder, and the error that its clients see."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from captioning.settings import Settings
from captioning.store.database import Database
from captioning.values import DecodeOptions
from producer.commands.submit import _start_in_new_folder
from producer.embedded import LOCK, LOG, SOCKET, supervisor
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest
from tests.store.helpers import LSTM
from tests.support.polling import wait_until

HOLD_LOCK = """
import sys, time
from pathlib import Path
from producer.embedded.supervisor import acquire_lock
lock = acquire_lock(Path(sys.argv[1]))
print("serving" if lock else "another supervisor is serving", flush=True)
time.sleep(60 if lock else 0)
"""


def hold_lock(folder: Path) -> subprocess.Popen[str]:
    """Start a process that takes the supervisor's lock."""
    command = [sys.executable, "-c", HOLD_LOCK, folder]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.processes
def test_a_second_supervisor_leaves_the_folder_to_the_first(tmp_path: Path) -> None:
    (tmp_path / SOCKET).touch()
    with hold_lock(tmp_path) as first:
        assert first_line(first) == "serving"
        with hold_lock(tmp_path) as second:
            assert first_line(second) == "another supervisor is serving"
        first.kill()


@pytest.mark.processes
def test_the_lock_of_a_killed_supervisor_is_free_although_its_socket_is_there(tmp_path: Path) -> None:
    (tmp_path / SOCKET).touch()
    for _ in range(2):
        with hold_lock(tmp_path) as process:
            assert first_line(process) == "serving"
            process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()


def test_a_supervisor_waits_for_one_that_is_stopping(tmp_path: Path) -> None:
    lock = supervisor.acquire_lock(tmp_path)  # without a socket: it is stopping
    assert lock is not None
    assert supervisor.acquire_lock(tmp_path, timeout_seconds=0.2) is None
    lock.release()
    again = supervisor.acquire_lock(tmp_path)
    assert again is not None
    again.release()


def test_only_the_user_may_connect_to_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(SOCKET).touch()  # a killed supervisor leaves its socket behind
    listener = supervisor._listen()
    assert Path(SOCKET).stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(SOCKET)
    listener.close()


@pytest.mark.parametrize("temporary", ["/tmp/" + "long" * 30, "/tmp/with a space"])
def test_the_private_folder_has_a_short_path_that_is_safe_in_a_url(temporary: str) -> None:
    folder = supervisor.make_private_folder(temporary)
    assert folder.parent == Path("/tmp")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", "the worker stopped unexpectedly; the reason is in LOG."),
        ("worker: stopped unexpectedly; the reason is ...\n", "the worker stopped unexpectedly; the reason is in LOG."),
        ("worker: no model named 'x'\n\n", "no model named 'x'"),
        ("worker: old\nnoise\nworker: new\nmore noise\n", "new"),
    ],
)
def test_the_error_of_a_worker_is_the_last_one_in_its_log(tmp_path: Path, log: str, error: str) -> None:
    (tmp_path / LOG).write_text(log)
    assert supervisor._worker_error(tmp_path / LOG) == error.replace("LOG", str(tmp_path / LOG))


def request_for(folder: Path) -> SubmitRequest:
    return SubmitRequest(read_sources([os.fsencode(folder)]), Filters(), LSTM, DecodeOptions())


@pytest.mark.processes
def test_in_a_new_data_folder_the_worker_starts_before_anything_is_registered_and_ends_with_its_client(
    settings: Settings, photographs: Path
) -> None:
    client = _start_in_new_folder(settings, request_for(photographs))
    assert client is not None
    assert client._supervisor is not None
    started = psutil.Process(client._supervisor.pid)
    wait_until(lambda: any("worker.cli" in child.cmdline() for child in started.children()), 30, "the worker")
    family = [started, *started.children(recursive=True)]
    client.close()
    assert client._supervisor.wait(15) == 0
    wait_until(lambda: not any(is_alive(process) for process in family), 5, "all processes to end")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_no_worker_starts_early_where_there_is_nothing_to_caption(settings: Settings, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert _start_in_new_folder(settings, request_for(empty)) is None
    assert not settings.data_dir.exists()


def test_no_worker_starts_early_where_images_may_have_captions(settings: Settings, photographs: Path) -> None:
    with Database.open(settings).engine.connect():  # creates the file
        pass
    assert _start_in_new_folder(settings, request_for(photographs)) is None
