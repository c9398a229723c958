"""Rewards of sampled captions, computed in processes beside a GPU: it would wait for Python otherwise."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from types import TracebackType
from typing import Self

from training.fit.cider_reward import CiderReward, Penalties, Sampled
from training.processes import begin_child

_MOST = 15  # processes; more compute no faster than a GPU samples

Collect = Callable[[], list[float]]
"""Waits for rewards and returns them."""


class Rewards:
    """Computes rewards at once, or in processes: `submit` returns what waits for them."""

    def __init__(self, references: Mapping[str, Sequence[Sequence[str]]], penalties: Penalties, processes: int) -> None:
        self._reward = None if processes else CiderReward(references, penalties=penalties)
        self._processes = processes
        self._pool = None
        if processes:
            # spawned: torch's threads, and a CUDA context, do not survive a fork
            self._pool = ProcessPoolExecutor(
                processes, get_context("spawn"), initializer=_begin, initargs=(references, penalties)
            )
            for _ in range(processes):
                self._pool.submit(_in_process, [])  # starts one

    def submit(self, captions: Sequence[Sampled]) -> Collect:
        """Start to compute the rewards of captions."""
        if self._pool is None:
            rewards = _rewards(_required(self._reward), captions)
            return lambda: rewards
        size = max(1, -(-len(captions) // self._processes))
        parts = [self._pool.submit(_in_process, captions[i : i + size]) for i in range(0, len(captions), size)]
        return lambda: list(chain.from_iterable(part.result() for part in parts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def processes_for(asked: int | None) -> int:
    """Return how many processes compute rewards: as asked, or one a core beside a GPU, and none without a GPU."""
    if asked is not None:
        return asked
    import torch  # not in the processes, which import this module too

    return min(_MOST, max(1, (os.cpu_count() or 1) - 1)) if torch.cuda.is_available() else 0


_own: CiderReward | None = None  # of a process of the pool


def _begin(references: Mapping[str, Sequence[Sequence[str]]], penalties: Penalties) -> None:
    global _own  # noqa: PLW0603, what an initializer makes has no other place
    begin_child()
    _own = CiderReward(references, penalties=penalties)


def _in_process(captions: Sequence[Sampled]) -> list[float]:
    return _rewards(_required(_own), captions)


def _rewards(reward: CiderReward, captions: Sequence[Sampled]) -> list[float]:
    return [reward.weight(c.name) * reward.of(c.name, c.words, ended=c.ended) for c in captions]


def _required(reward: CiderReward | None) -> CiderReward:
    if reward is None:
        raise RuntimeError("this process has no references")
    return reward
