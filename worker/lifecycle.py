"""What happens around tasks: the model is loaded before the first, the parent sweeps, the end is orderly."""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import billiard.pool
import structlog
from celery import signals

from captioning.errors import CaptioningError
from worker.environment import STOP_FILE
from worker.sweeper import Sweeper

log = structlog.get_logger()
LOAD_FAILURES = "load-failures"
MAX_LOAD_FAILURES = 3  # pool processes that couldn't load, after which their parent stops
_PLACE = "CAPTIONMILL_PLACE"  # in the environment: a folder that parent and child share
_sweeper: list[Sweeper] = []
_celery: list[Any] = []  # the WorkController of this process
_asked_to_stop = threading.Event()


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _prepare_parent(instance: Any, **_: Any) -> None:
    """Before the pool starts: what the children find in their environment."""
    _celery.append(instance)
    place = Path(tempfile.mkdtemp(prefix="captionmill-"))
    os.environ[_PLACE] = str(place)
    os.environ[STOP_FILE] = str(place / "stop")
    os.environ["CAPTIONMILL_WORKER_PID"] = str(os.getpid())
    os.environ["PYTHONSAFEPATH"] = "1"  # for `celery -A worker` too, which does not come through our own command line


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _start_sweeping(sender: Any, **_: Any) -> None:
    from worker.celery import app, settings

    _sweeper.append(Sweeper(app, settings))
    _sweeper[0].start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _put_work_down(**_: Any) -> None:
    """Tell the pool process to stop after its micro-batch; the rest of its chunk goes back at once."""
    _asked_to_stop.set()
    try:
        _place().mkdir(mode=0o700, exist_ok=True)  # somebody may have tidied up among the temporary files
        Path(os.environ[STOP_FILE]).touch()
    except OSError as error:  # then it does what it has in hand
        log.warning("stop_file_failed", error=str(error))
    for sweeper in _sweeper:
        sweeper.stop()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _load(**_: Any) -> None:
    """Load before the first task. Celery swallows what is raised here and would run tasks without a model."""
    # A pool process that is stopped as it ends a task waits for its parent to have read the result, 30 s of it
    # when the parent is stopping too. Rows are committed and a bell that isn't acked rings again: 1 s will do.
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10
    _stop_parent_after_too_many()
    in_case = "the system killed the process while it loaded the model; is there enough memory?"
    _note_failures([*load_failures(), in_case])  # nobody can say that afterwards
    try:
        from worker.runner import station

        station()
    except CaptioningError as broken:
        _give_up(str(broken))
    except Exception as broken:  # whatever it is, this process mustn't take tasks
        log.exception("model_load_failed")
        _give_up(f"{type(broken).__name__}: {broken}")
    _note_failures([])


def _give_up(why: str) -> None:
    _note_failures([*load_failures()[:-1], " ".join(why.split())])  # instead of what was noted in case
    log.error("worker_cannot_load", why=why)
    _stop_parent_after_too_many()
    os._exit(1)


def _stop_parent_after_too_many() -> None:
    if len(load_failures()) >= MAX_LOAD_FAILURES:
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)


def _place() -> Path:
    return Path(os.environ[_PLACE])


def _note_failures(lines: list[str]) -> None:
    with contextlib.suppress(OSError):  # the folder may have gone: the parent is stopping
        if lines:
            _place().mkdir(mode=0o700, exist_ok=True)  # or somebody tidied up among the temporary files
        (_place() / LOAD_FAILURES).write_text("".join(line + "\n" for line in lines))


def load_failures() -> list[str]:
    """Return why pool processes of this worker couldn't load, the oldest first."""
    try:
        return (_place() / LOAD_FAILURES).read_text().splitlines()
    except (OSError, KeyError):
        return []


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    from worker.runner import station

    if station.cache_info().currsize:
        station().close()


def end() -> bool:
    """Tidy up after the worker that this process ran; return whether it was asked to stop, and didn't just end."""
    if _PLACE in os.environ:
        shutil.rmtree(_place(), ignore_errors=True)
    asked_remotely = any(instance.exitcode == 0 for instance in _celery)  # None where something else ended it
    return _asked_to_stop.is_set() or asked_remotely
