"""Bells that are lost, doubled, late, strange or hostile: none is needed, none is believed."""

import base64
import json
import pickle
import time
from pathlib import Path

import pytest

from captioning.store import jobs
from tests.faults.servers import KEYS
from tests.faults.world import World
from tests.support.servers import wait_until

QUEUE = f"{KEYS}captions"
pytestmark = pytest.mark.stores("postgresql")


@pytest.mark.cell("M1a", "every bell comes three times, in another order")
def test_bells_that_are_doubled_and_shuffled_change_nothing(world: World) -> None:
    world.submit()
    with world.broker.client() as client:
        bells = client.lrange(QUEUE, 0, -1)
        client.rpush(QUEUE, *reversed(bells), *bells)
    world.worker()
    world.worker()
    world.struck()
    world.recover()


@pytest.mark.cell("M1b", "old bells ring after a job is done, and after one is cancelled")
def test_a_bell_without_work_is_heard_and_forgotten(world: World) -> None:
    world.submit()
    with world.broker.client() as client:
        bells = client.lrange(QUEUE, 0, -1)
    world.worker()
    wait_until(world.is_over, 60, "the job")
    before = world.one("SELECT sum(fence) FROM chunks")
    with world.broker.client() as client:
        client.rpush(QUEUE, *bells)
    world.producer("submit", str(world.images), "--force", "--limit", "1", "--name", "second")
    world.producer("cancel", str(world.job))
    with world.broker.client() as client:
        client.rpush(QUEUE, *bells)
    world.struck()
    wait_until(world.broker.at_rest, 30, "the bells to be heard")
    assert world.one("SELECT sum(fence) FROM chunks WHERE job_id = 1") == before
    assert [progress.state for progress in jobs.progress(world.db)][1] == "done"


LOSSES = {
    "M2a": ("one bell is taken off the list by hand", ["RPOP", QUEUE]),
    "M2b": ("all that the broker holds is deleted", ["FLUSHALL"]),
    "M2c": ("the broker forgets which queues there are", ["DEL", f"{KEYS}_kombu.binding.captions"]),
    "M2d": ("the broker forgets what is in workers' hands", ["DEL", f"{KEYS}unacked", f"{KEYS}unacked_index"]),
}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.cell(name, what, quick=name == "M2b"), id=name)
        for name, (what, command) in LOSSES.items()
    ],
)
def test_whatever_the_broker_loses_is_rung_again(world: World, command: list[str]) -> None:
    world.settings["FAULTS_SECONDS"] = "0.05"
    world.submit()
    with world.broker.client() as client:
        client.execute_command(*command)
    world.worker()
    world.wait_done(4)
    with world.broker.client() as client:
        for _ in range(3):
            client.execute_command(*command)
            time.sleep(0.3)
    world.struck()
    world.recover()


class Bomb:
    """What pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def strange(bell: bytes, mark: Path) -> dict[str, bytes]:
    """Return messages that nobody of ours sends, by what is wrong with them."""
    good = json.loads(bell)

    def changed(**changes: object) -> bytes:
        message = json.loads(bell)
        for where, value in changes.items():
            part = message
            *path, last = where.split("__")
            for step in path:
                part = part[step.replace("_", "-") if step == "content_type" else step]
            part[last.replace("content_", "content-")] = value
        return json.dumps(message).encode()

    def body(value: object) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    sequel = {"task": "captioning.caption_chunk", "args": [], "kwargs": {}, "options": {}}
    pickled = base64.b64encode(pickle.dumps(Bomb(mark))).decode()
    return {
        "no JSON": b"\x80\x04garbage\xff",
        "nothing": b"",
        "a number": b"7",
        "a list": b"[]",
        "too deep": b"[" * 100_000,
        "an empty object": b"{}",
        "no headers": json.dumps({k: v for k, v in good.items() if k != "headers"}).encode(),
        "pickle": changed(body=pickled, **{"content_type": "application/x-python-serialize"}),
        "pickle that says it is JSON": changed(body=pickled),
        "another task": changed(headers__task="celery.backend_cleanup"),
        "no task of anybody's": changed(headers__task="os.system"),
        "arguments": changed(body=body([["rm -rf /"], {}, {}])),
        "another version's arguments": changed(body=body([[], {"chunk": 1}, {}])),
        "sequels": changed(body=body([[], {}, {"callbacks": [sequel]}])),
        "for next year": changed(headers__eta="2099-01-01T00:00:00+00:00"),
        "a time limit of its own": changed(headers__timelimit=[0.001, None]),
        "5 MB": changed(body="A" * 5_000_000),
        "no delivery tag": changed(properties={"delivery_info": {}}),
        "compressed": changed(headers__compression="zlib", properties__body_encoding="zlib"),
    }


@pytest.mark.cell("M3", "garbage, pickles, other tasks, futures, 5 MB and the like lie in the queue", quick=True)
def test_what_is_no_bell_is_dropped_and_counted_and_nothing_of_it_runs(world: World) -> None:
    worker = world.worker()
    wait_until(lambda: workers.live_workers(world.db), 40, "the worker")
    pool = world.pool_process(worker).pid
    mark = world.folder / "executed"
    bell = sample_bell(world)
    messages = strange(bell, mark)
    with world.broker.client() as client:
        for message in messages.values():
            client.lpush(QUEUE, message)
    world.struck()
    wait_until(lambda: workers.live_workers(world.db)[0].dropped == len(messages), 30, "all of them to be counted")
    world.submit()
    world.recover()
    assert not mark.exists()
    assert world.pool_process(worker).pid == pool
    assert world.alive(worker)
    assert "Traceback" not in world.log()
    doctor = world.producer("doctor", code=None).stdout
    assert f"{len(messages)} messages that nobody of ours sent were dropped" in doctor


@pytest.mark.cell("M3b", "garbage lies where the broker notes down what is in workers' hands")
def test_what_no_worker_can_have_had_in_hand_is_dropped(world: World) -> None:
    world.submit()
    with world.broker.client() as client:
        for n, garbage in enumerate((b"\x80garbage", b"", b"7", b'["no", "message"]', b"[" * 100_000)):
            client.hset(f"{KEYS}unacked", f"strange-{n}", garbage)
            client.zadd(f"{KEYS}unacked_index", {f"strange-{n}": 0})
    worker = world.worker()
    world.struck()
    world.recover()
    assert world.alive(worker)


def sample_bell(world: World) -> bytes:
    """Return a bell as `ring` makes it."""
    from captioning.queue.celery_app import make_celery
    from captioning.settings import read_settings

    app = make_celery(read_settings(broker_url=world.broker.url))
    with app.connection_for_write() as connection:
        captured: list[bytes] = []
        channel = connection.default_channel
        channel._put = lambda queue, message, **_: captured.append(json.dumps(message).encode())
        app.send_task("captioning.caption_chunk", connection=connection, retry=False, ignore_result=True)
    return captured[0]
