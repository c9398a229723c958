"""What happens around tasks: the model is loaded before the first, the parent sweeps, the end is orderly."""

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import billiard.pool
import structlog
from celery import signals

from captioning.errors import CaptioningError
from worker.surroundings import STOP_FILE
from worker.sweeper import Sweeper

log = structlog.get_logger()
LOAD_FAILURES = "load-failures"
MAX_LOAD_FAILURES = 3  # pool processes that couldn't load, after which their parent stops
_PLACE = "CAPTIONMILL_PLACE"  # in the environment: a folder that parent and child share
_sweeper: list[Sweeper] = []


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _prepare_parent(**_: Any) -> None:
    """Before the pool starts: what the children find in their environment."""
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
    Path(os.environ[STOP_FILE]).touch()
    for sweeper in _sweeper:
        sweeper.stop()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _load(**_: Any) -> None:
    """Load before the first task. Celery swallows what is raised here and would run tasks without a model."""
    # A pool process that is stopped as it ends a task waits for its parent to have read the result, 30 s of it
    # when the parent is stopping too. Rows are committed and a bell that isn't acked rings again: 1 s will do.
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10
    _stop_parent_after_too_many()
    with _failures().open("a") as file:  # in case nobody can say more
        file.write("the system killed the process while it loaded the model; is there enough memory?\n")
    try:
        from worker.station import station

        station()
    except CaptioningError as broken:
        _give_up(str(broken))
    except Exception as broken:  # whatever it is, this process mustn't take tasks
        log.exception("model_load_failed")
        _give_up(f"{type(broken).__name__}: {broken}")
    _failures().unlink(missing_ok=True)  # the parent may have tidied up: it is stopping


def _give_up(why: str) -> None:
    lines = [*_failures().read_text().splitlines()[:-1], " ".join(why.split())]
    _failures().write_text("".join(line + "\n" for line in lines))
    log.error("worker_cannot_load", why=why)
    _stop_parent_after_too_many()
    os._exit(1)


def _stop_parent_after_too_many() -> None:
    if _failures().exists() and len(_failures().read_text().splitlines()) >= MAX_LOAD_FAILURES:
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)


def _failures() -> Path:
    return Path(os.environ[_PLACE]) / LOAD_FAILURES


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    from worker.station import station

    if station.cache_info().currsize:
        station().close()


def load_failures() -> list[str]:
    """Return why pool processes of this worker couldn't load, the oldest first, and tidy up after it."""
    place = os.environ.get(_PLACE)
    if place is None:
        return []
    said = _failures().read_text().splitlines() if _failures().exists() else []
    shutil.rmtree(place, ignore_errors=True)
    return said
