"""Connect failpoints to public functions of the product, and shorten its timings. Affects the current process only."""

import functools
import os
from collections.abc import Callable
from typing import Any

from tests.faults.failpoints import reach


def shorten_timings() -> None:
    """Make recovery take seconds where it takes half a minute in production, so that a scenario ends soon."""
    from captioning.queue.celery_app import TRANSPORT_OPTIONS
    from captioning.store import database

    TRANSPORT_OPTIONS.update(
        visibility_timeout=int(os.environ.get("FAULTS_VISIBILITY_SECONDS", "5")),
        unacked_mutex_expire=3,
        unacked_restore_interval=1,
        unacked_restore_throttle=1,
        health_check_interval=int(os.environ.get("FAULTS_HEALTH_CHECK_SECONDS", "2")),
    )
    database.BUSY_SECONDS = 2


def before(owner: Any, name: str, point: str) -> None:
    """Reach a failpoint before each call of `owner.name`, a function of a module or a method of a class."""

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        reach(point)
        return original(*args, **kwargs)

    wrap(owner, name, around)


def after(owner: Any, name: str, point: str, when: Callable[..., bool] = lambda _result, *_args: True) -> None:
    """Reach a failpoint after each call of `owner.name` for which `when(result, *args)` is true."""

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if when(result, *args):
            reach(point)
        return result

    wrap(owner, name, around)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace `owner.name` by a function that calls `around(original, *args, **kwargs)`."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, name, wrapper)
