"""A file system without locks and a machine without semaphores are named, with the remedy, at once."""

import errno
import fcntl
import multiprocessing
from pathlib import Path

import pytest

from captioning.errors import CaptioningError
from captioning.locks import require_locks, require_semaphores
from captioning.settings import read_settings
from captioning.store.database import Database
from producer.doctor import run_checks
from producer.embedded.client import EmbeddedClient


@pytest.fixture(params=["flock", "lockf"])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system in which one of the two kinds of locks fails, as on NFS without its lock daemon."""

    def fail(_file: int, operation: int, *_: int) -> None:
        if operation != fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, request.param, fail)


@pytest.mark.usefixtures("without_locks")
def test_a_folder_without_locks_is_named_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    with pytest.raises(CaptioningError, match=f"{tmp_path} has no locks .No locks available.*CAPTIONING_DATA_DIR"):
        require_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_locks")
def test_a_database_in_a_folder_without_locks_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/captions.sqlite")
    with pytest.raises(CaptioningError, match="has no locks"), db.reading():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_locks")
def test_embedded_mode_and_doctor_try_a_lock_in_the_data_folder(tmp_path: Path) -> None:
    settings = read_settings(data_dir=tmp_path, database_url="postgresql://elsewhere/captions")
    with pytest.raises(CaptioningError, match="has no locks"):
        EmbeddedClient(settings).start()
    check = next(run_checks(settings))
    assert not check.ok
    assert "has no locks" in check.message


def test_a_folder_that_has_locks_or_cannot_be_written_to_passes(tmp_path: Path) -> None:
    require_locks(tmp_path)
    require_locks(tmp_path / "missing")


def test_missing_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    require_semaphores()
    monkeypatch.setattr(multiprocessing, "Lock", fail)
    with pytest.raises(CaptioningError, match=r"/dev/shm \(Read-only file system\).*tmpfs"):
        require_semaphores()
