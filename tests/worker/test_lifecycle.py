"""The parent process and its pool process tell each other of stop requests and load failures, by files."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import signals

from captioning.settings import read_settings
from worker import lifecycle
from worker.environment import stop_requested, worker_name
from worker.lifecycle import ParentProcess, load_error, load_failures, request_stop, write_load_failures


def test_a_stop_request_reaches_the_pool_process(tmp_path: Path) -> None:
    settings = read_settings(worker_state_dir=tmp_path)
    assert not stop_requested(settings)
    request_stop(tmp_path)
    assert stop_requested(settings)


def test_a_process_without_a_state_folder_is_never_asked_to_stop() -> None:
    assert not stop_requested(read_settings())


def test_a_stop_request_survives_a_cleaner_of_temporary_files(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    request_stop(folder)
    assert stop_requested(read_settings(worker_state_dir=folder))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_load_failures_are_kept_in_order(tmp_path: Path) -> None:
    assert load_failures(tmp_path) == []
    write_load_failures(tmp_path, ["no memory", "no device"])
    assert load_failures(tmp_path) == ["no memory", "no device"]
    write_load_failures(tmp_path, [])
    assert load_failures(tmp_path) == []


def test_a_load_failure_is_noted_after_a_cleaner_removed_the_folder(tmp_path: Path) -> None:
    write_load_failures(tmp_path / "state", ["no memory"])
    assert load_failures(tmp_path / "state") == ["no memory"]


def test_a_success_does_not_bring_back_the_folder_of_a_parent_that_has_stopped(tmp_path: Path) -> None:
    write_load_failures(tmp_path / "state", [])
    assert not (tmp_path / "state").exists()


def test_a_process_without_a_state_folder_notes_nothing() -> None:
    write_load_failures(None, ["no memory"])
    assert load_failures(None) == []


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> ParentProcess:
    """The parent process of a worker that Celery has just set up."""
    for name in ("CAPTIONING_WORKER_STATE_DIR", "CAPTIONING_WORKER_NAME", "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, "")  # restored after the test
    fresh = ParentProcess()
    monkeypatch.setattr(lifecycle, "parent", fresh)
    signals.celeryd_after_setup.send(sender="w", instance=SimpleNamespace(exitcode=None), conf=None)
    return fresh


def test_the_pool_process_learns_the_name_and_the_state_folder_of_its_parent(parent: ParentProcess) -> None:
    of_pool_process = read_settings()
    assert of_pool_process.worker_state_dir == parent.state_dir
    assert worker_name(of_pool_process).endswith(f"-{os.getpid()}")
    assert os.environ["PYTHONSAFEPATH"] == "1"
    assert lifecycle.close_parent() == (False, [])


def test_a_worker_that_was_asked_to_stop_stops_its_pool_process_and_cleans_up(parent: ParentProcess) -> None:
    signals.worker_shutting_down.send(sender="w", sig="SIGTERM", how="Warm", exitcode=0)
    assert stop_requested(read_settings())
    assert lifecycle.close_parent() == (True, [])
    assert parent.state_dir is not None
    assert not parent.state_dir.exists()


def test_a_worker_that_was_stopped_by_remote_control_was_asked_to_stop(parent: ParentProcess) -> None:
    parent.controller.exitcode = 0
    assert lifecycle.close_parent() == (True, [])


def test_a_worker_that_cannot_load_its_model_learns_why(parent: ParentProcess) -> None:
    write_load_failures(parent.state_dir, ["no memory"] * 3)
    assert lifecycle.close_parent() == (False, ["no memory"] * 3)


def test_a_stop_request_that_cannot_be_written_stops_the_parent_all_the_same(
    parent: ParentProcess, tmp_path: Path
) -> None:
    assert parent.state_dir is not None
    shutil.rmtree(parent.state_dir)
    parent.state_dir = tmp_path / "no" / "such" / "folder"
    signals.worker_shutting_down.send(sender="w", sig="SIGTERM", how="Warm", exitcode=0)
    assert parent.stop_requested.is_set()


@pytest.mark.parametrize("error", [MemoryError(), ImportError("libtorch_cpu.so: failed to map segment from shared")])
def test_a_limit_of_memory_is_named_when_the_model_does_not_load(error: Exception) -> None:
    assert "raise `ulimit -v`" in load_error(error)
    assert load_error(ValueError("x")) == "ValueError: x"
