"""A worker does not ask a broker that refuses it without pause, and does not fill its log with the answers."""

import logging

from worker.consumer import MAX_PAUSE_SECONDS, STABLE_SECONDS, Pauses
from worker.log import QUIET_SECONDS, ThinnedRepeats


def test_a_single_loss_of_the_connection_costs_no_pause() -> None:
    pauses = Pauses()
    assert pauses.next_pause(0.0) == 0.0
    assert pauses.next_pause(STABLE_SECONDS + 1) == 0.0


def test_pauses_grow_while_the_broker_refuses_again_and_again() -> None:
    pauses, now, waited = Pauses(), 0.0, []
    for _ in range(10):
        waited.append(pauses.next_pause(now))
        now += waited[-1]
    assert waited[:4] == [0.0, 1.0, 2.0, 4.0]
    assert waited[-1] == MAX_PAUSE_SECONDS


def test_a_library_that_repeats_itself_is_logged_ever_more_rarely() -> None:
    now = [0.0]
    thinned = ThinnedRepeats(lambda: now[0])

    def passes(name: str, message: str) -> bool:
        return bool(thinned.filter(logging.LogRecord(name, logging.ERROR, "", 0, message, None, None)))

    assert [n for n in range(1, 1000) if passes("celery", f"no answer, attempt {n}")] == [2**k for k in range(10)]
    assert passes("celery", "another error")
    assert all(passes("worker.tasks", "our own events count themselves") for _ in range(9))
    now[0] += QUIET_SECONDS + 1
    assert passes("celery", "no answer, attempt 1000")
