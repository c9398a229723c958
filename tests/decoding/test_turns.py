"""Callers get the same time of the decode processes, whatever their images cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.decoding.turns import Caller, DecodeRequest, Task, Turns
from captioning.errors import DecodePoolUnavailable

SECONDS = st.floats(0.001, 10)


def task(caller: Caller, item: object = None) -> Task:
    return Task(DecodeRequest(b"x", item), caller, 0)


@given(costs=st.lists(SECONDS, min_size=2, max_size=5), rounds=st.integers(1, 60))
def test_while_all_wait_no_caller_is_ahead_by_more_than_one_image(costs: list[float], rounds: int) -> None:
    turns, callers = Turns(), {Caller(): cost for cost in costs}
    for caller in callers:
        turns.join(caller)
        for _ in range(rounds):
            turns.add(task(caller))
    used = dict.fromkeys(callers, 0.0)
    for _ in range(rounds):
        (taken,) = turns.take(1, 0)
        cost = callers[taken.caller]
        turns.settle(taken, cost)
        used[taken.caller] += cost
        assert max(used.values()) - min(used.values()) <= max(costs) * 1.001


@given(rounds=st.integers(1, 30), cost=SECONDS)
def test_who_comes_later_has_not_saved_time_up(rounds: int, cost: float) -> None:
    turns, early, late = Turns(), Caller(), Caller()
    for caller in (early, late):
        turns.join(caller)
    for _ in range(rounds + 4):
        turns.add(task(early))
    for _ in range(rounds):
        turns.settle(turns.take(1, 0)[0], cost)
    for _ in range(4):
        turns.add(task(late))
    callers = []
    for _ in range(4):
        (taken,) = turns.take(1, 0)
        turns.settle(taken, cost)
        callers.append(taken.caller)
    assert early in callers
    assert late in callers


def test_images_that_are_put_back_come_first_and_in_their_order() -> None:
    turns, caller = Turns(), Caller()
    turns.join(caller)
    for number in range(6):
        turns.add(task(caller, number))
    taken = turns.take(4, 1_000_000)
    turns.put_back(taken[1:])
    assert [each.request.item for each in turns.take(10, 1_000_000)] == [1, 2, 3, 4, 5]
    assert len(turns) == 0


def test_large_files_are_taken_one_at_a_time() -> None:
    turns, caller = Turns(), Caller()
    turns.join(caller)
    for _ in range(3):
        turns.add(task(caller))
    assert len(turns.take(3, 0)) == 1


def test_a_caller_that_leaves_takes_its_images_along() -> None:
    turns, caller = Turns(), Caller()
    turns.join(caller)
    turns.add(task(caller))
    taken = turns.take(1, 0)
    turns.add(task(caller))
    turns.leave(caller)
    turns.put_back(taken)
    assert len(turns) == 0


def test_nobody_joins_what_is_closed() -> None:
    turns = Turns()
    turns.close(DecodePoolUnavailable("stopped"))
    with pytest.raises(DecodePoolUnavailable, match="stopped"):
        turns.join(Caller())
