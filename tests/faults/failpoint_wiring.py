"""Installs failpoints and quick timings into the product's modules: in this process, by whoever starts it so."""

import functools
import os
from collections.abc import Callable
from typing import Any

from tests.faults.failpoints import reach


def quick_timings() -> None:
    """Recover in seconds from what takes half a minute in earnest, so that a cell is over soon."""
    from captioning import queue
    from captioning.store import database

    visibility = int(os.environ.get("FAULTS_VISIBILITY", "5"))
    queue._TRANSPORT.update(
        visibility_timeout=visibility,
        unacked_mutex_expire=3,
        unacked_restore_interval=1,
        unacked_restore_throttle=1,
        health_check_interval=int(os.environ.get("FAULTS_HEALTH", "2")),
    )
    database.BUSY_SECONDS = 2


def before(owner: Any, name: str, place: str) -> None:
    """Reach a place whenever a function is about to be called."""
    wrap(owner, name, lambda act, *words, **named: (reach(place), act(*words, **named))[1])


def after(owner: Any, name: str, place: str) -> None:
    """Reach a place whenever a function has returned something, or None if it never does."""

    def act_then_reach(act: Callable[..., Any], *words: Any, **named: Any) -> Any:
        result = act(*words, **named)
        if result is not None or name != "claim":
            reach(place)
        return result

    wrap(owner, name, act_then_reach)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(functools.partial(around, original)) if not isinstance(owner, type)
            else _method(original, around))  # fmt: skip


def _method(original: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *words: Any, **named: Any) -> Any:
        return around(functools.partial(original, self), *words, **named)

    return method
