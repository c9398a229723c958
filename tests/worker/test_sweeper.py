"""The sweeper sends heartbeats to the database, and wake-up messages for work that waits without one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioning.errors import BrokerUnavailable
from captioning.queue.transport import DroppedMessages
from captioning.store import workers
from captioning.store.database import Database
from tests.support.polling import wait_until
from tests.worker.conftest import LocalWorker, png
from worker.sweeper import Sweeper


def sends_nothing(_chunks: int) -> int:
    return 0


def make_sweeper(local: LocalWorker, wake: Callable[[int], int] = sends_nothing, **settings: Any) -> Sweeper:
    return Sweeper(local.db, local.settings(**settings), wake)


def test_a_heartbeat_says_what_the_worker_can_do(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    make_sweeper(local).step()
    (alive,) = workers.live_workers(local.db)
    assert (alive.name, alive.roots, alive.runtime) == ("w1", ["images"], "auto")
    assert local.driver.claim().model_digest in alive.models


def test_heartbeats_are_five_seconds_apart(local: LocalWorker) -> None:
    sweeper = make_sweeper(local, sweep_seconds=2)
    beats = []
    for _ in range(6):  # of 2 s
        with local.db.writing() as connection:
            connection.exec_driver_sql("DELETE FROM workers")
        sweeper.step()
        beats.append(len(workers.live_workers(local.db)))
    assert beats == [1, 0, 0, 1, 0, 0]


def test_messages_are_sent_for_claimable_chunks(local: LocalWorker, events: list[Any]) -> None:
    wanted: list[int] = []

    def send(chunks: int) -> int:
        wanted.append(chunks)
        return chunks

    sweeper = make_sweeper(local, send)
    sweeper.step()
    assert wanted == []
    local.submit({"a.png": png(1)})
    local.submit({"b.png": png(2)}, key="other")
    sweeper.step()
    assert wanted == [2]
    assert [e["messages"] for e in events if e["event"] == "wake_messages_sent"] == [2]


def test_no_message_is_sent_for_a_chunk_that_somebody_holds(local: LocalWorker) -> None:
    local.submit({"a.png": png(1)})
    local.claim()
    wanted: list[int] = []
    make_sweeper(local, lambda n: wanted.append(n) or n).step()
    assert wanted == []


def test_workers_take_turns(local: LocalWorker) -> None:
    sent: list[str] = []
    local.submit({"a.png": png(1)})
    first = make_sweeper(local, lambda n: sent.append("first") or n, sweep_seconds=60)
    second = make_sweeper(local, lambda n: sent.append("second") or n, sweep_seconds=60)
    first.step()
    second.step()
    assert sent == ["first"]


def test_a_worker_that_cannot_help_takes_no_turn(local: LocalWorker, tmp_path: Path) -> None:
    sent: list[int] = []
    local.submit({"a.png": png(1)})
    make_sweeper(local, lambda _n: sent.append(-1) or 0, sweep_seconds=60, roots={"other": tmp_path}).step()
    make_sweeper(local, lambda n: sent.append(n) or n, sweep_seconds=60).step()
    assert sent == [1]


def test_a_root_that_is_not_visible_is_logged_once_and_then_ever_more_rarely(
    local: LocalWorker, events: list[Any]
) -> None:
    local.submit({"a.png": png(1)})
    (local.folder / "a.png").unlink()
    sweeper = make_sweeper(local)
    for _ in range(9):
        sweeper.step()
    hidden = [event for event in events if event["event"] == "root_not_visible"]
    assert [event["count"] for event in hidden] == [1, 2, 4, 8]
    assert (hidden[0]["root"], hidden[0]["path"]) == ("images", str(local.folder))
    (alive,) = workers.live_workers(local.db)
    assert alive.roots == []


def test_a_broker_that_does_not_answer_is_logged_ever_more_rarely(local: LocalWorker, events: list[Any]) -> None:
    def fail(_chunks: int) -> int:
        raise BrokerUnavailable("the broker does not answer")

    local.submit({"a.png": png(1)})
    sweeper = make_sweeper(local, fail, sweep_seconds=1e-6)
    for _ in range(20):
        sweeper.step()
    assert [(event["event"], event["count"]) for event in events] == [
        ("service_unavailable", n) for n in (1, 2, 4, 8, 16)
    ]


def test_a_database_that_does_not_answer_ends_no_sweeper(local: LocalWorker, tmp_path: Path, events: list[Any]) -> None:
    sweeper = Sweeper(Database(f"sqlite:///{tmp_path}"), local.settings(), sends_nothing)  # a folder
    sweeper.step()
    assert [event["event"] for event in events] == ["service_unavailable"]


def test_a_bug_ends_no_sweeper_and_is_logged_with_its_traceback(local: LocalWorker, events: list[Any]) -> None:
    def fail(_chunks: int) -> int:
        raise ValueError("boom")

    local.submit({"a.png": png(1)})
    make_sweeper(local, fail).step()
    assert [(e["event"], e["log_level"], e["exc_info"]) for e in events] == [("sweep_failed", "error", True)]


def test_dropped_messages_are_counted_and_logged(
    local: LocalWorker, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DroppedMessages, "count", 7)
    make_sweeper(local).step()
    assert [(event["event"], event["messages"]) for event in events] == [("messages_dropped", 7)]
    (alive,) = workers.live_workers(local.db)
    assert alive.dropped_messages == 7


def test_a_worker_that_stops_removes_itself_from_the_database(local: LocalWorker) -> None:
    sweeper = make_sweeper(local, sweep_seconds=0.01)
    sweeper.start()
    wait_until(lambda: workers.live_workers(local.db), 10, "the first heartbeat")
    sweeper.stop()
    sweeper.join(10)
    assert workers.live_workers(local.db) == []
