"""Wake-up messages that are lost, duplicated, late, malformed or hostile: no message is needed, and none is trusted."""

import base64
import json
import pickle
import time
from pathlib import Path

import pytest

from captioning.queue.celery_app import KEY_PREFIX, make_celery, wake_workers
from captioning.queue.message import QUEUE, TASK_NAME
from captioning.settings import read_settings
from captioning.store import jobs, workers
from tests.faults.world import World
from tests.support.polling import wait_until

QUEUE_KEY = KEY_PREFIX + QUEUE
pytestmark = pytest.mark.stores("postgresql")


@pytest.mark.scenario("M1a", "every wake-up message arrives three times, in another order")
def test_duplicate_messages_in_any_order_change_nothing(world: World) -> None:
    world.submit()
    with world.broker.client() as client:
        messages = client.lrange(QUEUE_KEY, 0, -1)
        client.rpush(QUEUE_KEY, *reversed(messages), *messages)
    world.start_worker()
    world.start_worker()
    world.mark_fault()
    world.wait_for_recovery()


@pytest.mark.scenario("M1b", "old wake-up messages arrive after a job is done, and after one is cancelled")
def test_a_message_without_work_has_no_effect(world: World) -> None:
    world.submit()
    with world.broker.client() as client:
        messages = client.lrange(QUEUE_KEY, 0, -1)
    world.start_worker()
    world.wait_until_finished(60)
    before = world.scalar("SELECT sum(fence) FROM chunks")
    with world.broker.client() as client:
        client.rpush(QUEUE_KEY, *messages)
    world.run_producer("submit", str(world.images), "--force", "--limit", "1", "--name", "second")
    world.run_producer("cancel", str(world.job))
    with world.broker.client() as client:
        client.rpush(QUEUE_KEY, *messages)
    world.mark_fault()
    wait_until(world.broker.is_empty, 30, "the worker to take all messages")
    assert world.scalar("SELECT sum(fence) FROM chunks WHERE job_id = 1") == before
    assert [progress.state for progress in jobs.progress(world.db)][1] == "done"


LOSSES = {
    "M2a": ("one wake-up message is deleted by hand", ["RPOP", QUEUE_KEY]),
    "M2b": ("all data of the broker is deleted", ["FLUSHALL"]),
    "M2c": ("the broker loses the list of its queues", ["DEL", f"{KEY_PREFIX}_kombu.binding.{QUEUE}"]),
    "M2d": ("the broker loses the unacknowledged messages",
            ["DEL", f"{KEY_PREFIX}unacked", f"{KEY_PREFIX}unacked_index"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.scenario(name, what, quick=name == "M2b"), id=name)
        for name, (what, command) in LOSSES.items()
    ],
)
def test_messages_that_the_broker_loses_are_sent_again(world: World, command: list[str]) -> None:
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.05"
    world.submit()
    with world.broker.client() as client:
        client.execute_command(*command)
    world.start_worker()
    world.wait_for_items(4)
    with world.broker.client() as client:
        for _ in range(3):
            client.execute_command(*command)
            time.sleep(0.3)
    world.mark_fault()
    world.wait_for_recovery()


class TouchWhenUnpickled:
    """Creates a file when pickle loads it: proof that code in a message was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def hostile_messages(wake_message: bytes, mark: Path) -> dict[str, bytes]:
    """Return messages that the product never sends, by what is wrong with them. One would create the file `mark`."""
    good = json.loads(wake_message)

    def changed(**changes: object) -> bytes:
        message = json.loads(wake_message)
        for where, value in changes.items():
            part = message
            *path, last = where.split("__")
            for step in path:
                part = part[step]
            part[last.replace("content_", "content-")] = value
        return json.dumps(message).encode()

    def body(value: object) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    follow_up = {"task": TASK_NAME, "args": [], "kwargs": {}, "options": {}}
    pickled = base64.b64encode(pickle.dumps(TouchWhenUnpickled(mark))).decode()
    return {
        "not JSON": b"\x80\x04garbage\xff",
        "empty": b"",
        "a number": b"7",
        "a list": b"[]",
        "nested too deeply": b"[" * 100_000,
        "an empty object": b"{}",
        "no headers": json.dumps({k: v for k, v in good.items() if k != "headers"}).encode(),
        "pickle": changed(body=pickled, content_type="application/x-python-serialize"),
        "pickle declared as JSON": changed(body=pickled),
        "a task of Celery": changed(headers__task="celery.backend_cleanup"),
        "an unknown task": changed(headers__task="os.system"),
        "arguments": changed(body=body([["rm -rf /"], {}, {}])),
        "arguments of another version": changed(body=body([[], {"chunk": 1}, {}])),
        "a callback": changed(body=body([[], {}, {"callbacks": [follow_up]}])),
        "an execution time in the future": changed(headers__eta="2099-01-01T00:00:00+00:00"),
        "its own time limit": changed(headers__timelimit=[0.001, None]),
        "5 MB": changed(body="A" * 5_000_000),
        "no delivery tag": changed(properties={"delivery_info": {}}),
        "compressed": changed(headers__compression="zlib", properties__body_encoding="zlib"),
    }


@pytest.mark.scenario("M3", "the queue contains garbage, pickles, other tasks, 5 MB and similar messages")
def test_messages_other_than_wake_up_messages_are_dropped_and_counted_and_never_run(world: World) -> None:
    mark = world.folder / "executed"
    messages = hostile_messages(take_wake_message(world), mark)
    worker = world.start_worker()
    wait_until(lambda: workers.live_workers(world.db), 40, "the worker")
    pool = world.pool_process(worker).pid
    with world.broker.client() as client:
        for message in messages.values():
            client.lpush(QUEUE_KEY, message)
    world.mark_fault()
    wait_until(
        lambda: workers.live_workers(world.db)[0].dropped_messages == len(messages), 30, "every message to be counted"
    )
    world.submit()
    world.wait_for_recovery()
    assert not mark.exists()
    assert world.pool_process(worker).pid == pool
    assert world.is_alive(worker)
    assert "Traceback" not in world.log()
    doctor = world.run_producer("doctor", code=None).stdout
    assert f"{len(messages)} messages in the queue were not wake-up messages and were dropped" in doctor


def take_wake_message(world: World) -> bytes:
    """Send a wake-up message as the product does; take it off the queue and return it."""
    assert wake_workers(make_celery(read_settings(broker_url=world.broker.url)), 1) == 1
    with world.broker.client() as client:
        message = client.lpop(QUEUE_KEY)
    assert isinstance(message, bytes)
    return message


@pytest.mark.scenario("M3b", "the broker's record of unacknowledged messages contains garbage")
def test_garbage_among_the_unacknowledged_messages_is_dropped(world: World) -> None:
    world.submit()
    with world.broker.client() as client:
        for n, garbage in enumerate((b"\x80garbage", b"", b"7", b'["not", "a message"]', b"[" * 100_000)):
            client.hset(f"{KEY_PREFIX}unacked", f"garbage-{n}", garbage)
            client.zadd(f"{KEY_PREFIX}unacked_index", {f"garbage-{n}": 0})
    worker = world.start_worker()
    world.mark_fault()
    world.wait_for_recovery()
    assert world.is_alive(worker)
