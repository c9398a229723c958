"""What happens around tasks: the model is loaded before the first task, the parent process sweeps, the end is orderly.

Celery's signals call these functions, in the parent process or in the pool process. The two processes share the state
folder, a temporary folder with a stop file and a list of load failures.
"""

import contextlib
import functools
import logging
import os
import shutil
import signal
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import billiard.pool
import structlog
from celery import signals

from captioning.environment import PREFIX, set_for_children, set_up_math_threads
from captioning.errors import CaptioningError, UsageError
from captioning.queue.celery_app import wake_workers
from captioning.start import fast_imports
from worker.celery import app, settings
from worker.environment import STOP_FILE, worker_name
from worker.log import set_up_log

if TYPE_CHECKING:  # imports SQLAlchemy, which the parent process needs later
    from worker.sweeper import Sweeper

log = structlog.get_logger(__name__)
LOAD_FAILURES = "load-failures"
MAX_LOAD_FAILURES = 3  # pool processes that could not load their model, before their parent process stops
_ACK_POLLS = 10  # of 0.1 s


@dataclass
class ParentProcess:
    """What the parent process needs to remember."""

    controller: Any = None  # Celery's WorkController
    state_dir: Path | None = None
    sweeper: "Sweeper | None" = None
    stop_requested: threading.Event = field(default_factory=threading.Event)


parent = ParentProcess()


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_log(loglevel: int | None = None, logfile: str | None = None, **_: Any) -> None:
    """In both processes: replace Celery's own logging set-up. Its option --loglevel applies to libraries."""
    set_up_log(settings.log, loglevel or logging.WARNING, logfile)


# -- in the parent process --


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _prepare(instance: Any, **_: Any) -> None:
    """Before the pool starts: make the state folder and tell the pool process about it."""
    parent.controller = instance
    parent.state_dir = Path(tempfile.mkdtemp(prefix="captionmill-"))
    set_for_children(PREFIX + "WORKER_STATE_DIR", str(parent.state_dir))
    set_for_children(PREFIX + "WORKER_NAME", worker_name(settings))
    set_up_math_threads()
    set_for_children("PYTHONSAFEPATH", "1")  # `celery -A worker` does not come through our own command line


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _start_sweeping(**_: Any) -> None:
    from captioning.store.database import Database
    from worker.sweeper import Sweeper

    parent.sweeper = Sweeper(Database.open(settings), settings, functools.partial(wake_workers, app))
    parent.sweeper.start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _request_stop(**_: Any) -> None:
    """Ask the pool process to stop after its current batch. The rest of its chunk returns to the queue at once."""
    parent.stop_requested.set()
    if parent.state_dir is not None:
        try:
            request_stop(parent.state_dir)
        except OSError as error:  # then the pool process finishes its chunk
            log.warning("stop_request_failed", error=str(error))
    if parent.sweeper is not None:
        parent.sweeper.stop()


def close_parent() -> tuple[bool, list[str]]:
    """Clean up after Celery's worker has ended in this process.

    Returns whether it was asked to stop, and why pool processes could not load their model.
    """
    failures = load_failures(parent.state_dir)
    if parent.state_dir is not None:
        shutil.rmtree(parent.state_dir, ignore_errors=True)
    stopped_remotely = parent.controller is not None and parent.controller.exitcode == 0
    return parent.stop_requested.is_set() or stopped_remotely, failures


# -- in the pool process --


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _load(**_: Any) -> None:
    """Load the model before the first task. Celery ignores exceptions here and would run tasks without a model."""
    # A pool process that stops at the end of a task waits until its parent has read the result: 30 s when the parent
    # is stopping too. Rows are committed by then, and an unacknowledged message is delivered again, so 1 s is enough.
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = _ACK_POLLS
    folder = settings.worker_state_dir
    _stop_parent_after_too_many(folder)
    earlier = load_failures(folder)  # in case this process is killed while it loads, note the likely reason now
    write_load_failures(folder, [*earlier, "the system killed the process while it loaded the model; is memory short?"])
    try:
        with fast_imports():
            from worker.runner import get_runner

            get_runner()
    except Exception as error:  # of any kind: this process must not take tasks
        expected = isinstance(error, CaptioningError)
        reason = " ".join((str(error) if expected else load_error(error)).split())
        is_final = isinstance(error, UsageError)  # a wrong setting, which another attempt does not change
        write_load_failures(folder, [*earlier, *[reason] * (MAX_LOAD_FAILURES if is_final else 1)])
        log.error("model_load_failed", reason=reason, exc_info=not expected)
        _stop_parent_after_too_many(folder)
        os._exit(1)
    write_load_failures(folder, [])


def load_error(error: Exception) -> str:
    """Return why a model could not be loaded, for an error that is not one of ours."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or "failed to map segment" in text:
        return f"{text}; this process may not use more memory: raise `ulimit -v` or give the machine more"
    return text


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    from worker.runner import get_runner

    if get_runner.cache_info().currsize:
        get_runner().close()


def _stop_parent_after_too_many(folder: Path | None) -> None:
    if len(load_failures(folder)) >= MAX_LOAD_FAILURES:
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)


# -- the state folder; a cleaner of temporary files may have removed it --


def request_stop(folder: Path) -> None:
    """Create the stop file. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / STOP_FILE).touch()


def load_failures(folder: Path | None) -> list[str]:
    """Return why pool processes of this worker could not load their model, the oldest first."""
    try:
        return [] if folder is None else (folder / LOAD_FAILURES).read_text().splitlines()
    except OSError:
        return []


def write_load_failures(folder: Path | None, reasons: list[str]) -> None:
    """Write the list of load failures, one line each."""
    if folder is None:
        return
    with contextlib.suppress(OSError):  # the parent process is stopping and has removed the folder
        if reasons:
            folder.mkdir(mode=0o700, exist_ok=True)
        (folder / LOAD_FAILURES).write_text("".join(reason + "\n" for reason in reasons))
