"""The queue between producers and workers: Celery on Redis with one type of message, the wake-up message.

`celery -A captioning.queue flower` finds the Celery app as the attribute `app`. It is created on first access, not at
import, so that importing this package reads no settings. No submodule may be called `app`: it would hide the attribute.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

    app: Celery


def __getattr__(name: str) -> "Celery":
    if name != "app":
        raise AttributeError(name)
    from captioning.queue.celery_app import make_celery
    from captioning.settings import read_settings

    globals()["app"] = created = make_celery(read_settings())
    return created
