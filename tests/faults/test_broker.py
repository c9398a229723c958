"""Brokers that die, freeze, cut links, fill up, turn read-only, slow down or change their lock: workers go on."""

import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.faults.proxy import Proxy
from tests.faults.world import World
from tests.support.servers import wait_until

pytestmark = pytest.mark.stores("postgresql")


@pytest.fixture
def slow(world: World) -> World:
    """A world in which the job lasts, so that there is something to disturb."""
    world.settings["FAULTS_SECONDS"] = "0.25"
    return world


@contextmanager
def proxied(world: World) -> Iterator[Proxy]:
    """Lead everybody's way to the broker through a proxy."""
    proxy = Proxy(("127.0.0.1", world.broker.port))
    world.proxied["CAPTIONING_BROKER_URL"] = world.broker.url_at(proxy.port)
    yield proxy
    proxy.close()


def hears_again(world: World, seconds: float) -> float:
    """Submit once more and return how long it takes until a worker has heard; the database alone won't tell it.

    A sweeper that hears nothing of the queue would ring into the void: what counts is that a bell is answered.
    """
    started = time.monotonic()
    world.submit("--force", "--limit", "4", "--name", "again")
    wait_until(world.is_over, seconds, "the worker to hear")
    return time.monotonic() - started


@pytest.mark.cell("B1a", "the broker is killed and comes back with its log", quick=True)
def test_a_broker_that_comes_back_is_found_again(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(8)
    slow.broker.kill()
    slow.struck()
    slow.broker.start()
    slow.recover()
    assert hears_again(slow, 30) < 20


@pytest.mark.cell("B1b", "the broker is killed and comes back empty")
def test_a_broker_that_lost_everything_is_filled_again(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(8)
    slow.broker.kill()
    shutil.rmtree(slow.broker.folder)
    slow.struck()
    slow.broker.start()
    slow.recover()


@pytest.mark.cell("B2a", "the broker is stopped for 60 s; the chunk in hand is committed meanwhile")
def test_a_frozen_broker_holds_up_no_commit(slow: World) -> None:
    slow.settings["CAPTIONING_CHUNK_SIZE"] = "20"  # so that one is in hand
    slow.faults = 5
    slow.worker()
    slow.submit()
    slow.wait_done(4)
    before = slow.done
    slow.broker.signal(signal.SIGSTOP)
    wait_until(lambda: slow.done > before, 20, "a commit without a broker")
    time.sleep(60)
    slow.broker.signal(signal.SIGCONT)
    slow.struck()
    slow.recover()


@pytest.mark.cell("B2b", "links to the broker fall silent without a farewell for 20 s")
def test_half_open_links_are_noticed(slow: World) -> None:
    with proxied(slow) as proxy:
        slow.worker()
        slow.submit()
        slow.wait_done(8)
        proxy.silent = True
        time.sleep(20)
        proxy.silent = False
        slow.struck()
        slow.recover()
        hears_again(slow, 60)


def busy(process: psutil.Process) -> float:
    """Return the share of a core that a worker's parent takes while nothing is to do."""
    return process.cpu_percent(interval=3.0) / 100


@pytest.mark.cell("B3a", "every client's link is killed each second, twenty times")
def test_links_that_are_killed_leave_no_deaf_and_no_raging_worker(slow: World) -> None:
    worker = slow.worker()
    slow.submit()
    slow.wait_done(4)
    with slow.broker.client() as client:
        for _ in range(20):
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            time.sleep(1)
    slow.struck()
    slow.recover()
    hears_again(slow, 30)
    assert busy(worker) < 0.5


@pytest.mark.cell("B3b", "every link is reset by the network each half second, ten times")
def test_links_that_are_reset_leave_no_deaf_worker(slow: World) -> None:
    with proxied(slow) as proxy:
        slow.worker()
        slow.submit()
        slow.wait_done(4)
        for _ in range(10):
            proxy.reset()
            time.sleep(0.5)
        slow.struck()
        slow.recover()
        hears_again(slow, 30)


@pytest.mark.cell("B3c", "the link is cut whenever a bell is acknowledged, eight times")
def test_a_bell_that_cannot_be_acknowledged_leaves_no_deaf_worker(slow: World) -> None:
    with proxied(slow) as proxy:
        slow.worker()
        slow.submit()
        slow.wait_done(4)
        proxy.most_cuts, proxy.cut_at = 8, b"ZREM"
        wait_until(lambda: proxy.cuts >= 8, 60, "eight cuts")
        slow.struck()
        slow.recover()
        hears_again(slow, 30)


@pytest.mark.cell("B4", "the broker has no memory left for 8 s: it hands out bells that it can't note down")
def test_bells_lost_to_a_full_broker_ring_again(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(4)
    with slow.broker.client() as client:
        client.config_set("maxmemory", 1)
        time.sleep(8)
        client.config_set("maxmemory", 0)
    slow.struck()
    slow.recover()
    hears_again(slow, 30)


@pytest.mark.cell("B5a", "the broker's disk is full for 8 s: it refuses every write")
def test_a_broker_that_cannot_write_is_waited_for(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(4)
    assert slow.broker.process is not None
    _, hard = resource.prlimit(slow.broker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(slow.broker.process.pid, resource.RLIMIT_FSIZE, (1, hard))
    with slow.broker.client() as client:
        wait_until(lambda: client.info("persistence")["aof_last_write_status"] != "ok", 15, "a write to fail")
        time.sleep(6)
        resource.prlimit(slow.broker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        slow.struck()
        wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "ok", 15, "writing again")
    slow.recover()
    hears_again(slow, 30)


@pytest.mark.cell("B5b", "the broker is a read-only replica of nobody for 8 s, as in a failover")
def test_a_broker_that_is_read_only_is_waited_for(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(4)
    with slow.broker.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "9")
        time.sleep(8)
        client.execute_command("REPLICAOF", "NO", "ONE")
    slow.struck()
    slow.recover()
    hears_again(slow, 30)


@pytest.mark.cell("B6", "the way to the broker takes 500 ms and 10 KB/s")
def test_a_slow_broker_only_slows(world: World) -> None:
    # as it is in earnest: on such a link two seconds are no time, and every bell takes about ten
    world.settings |= {"FAULTS_HEALTH": "25", "FAULTS_VISIBILITY": "3600", "CAPTIONING_CHUNK_SIZE": "20"}
    world.faults = 5
    with proxied(world) as proxy:
        proxy.delay, proxy.bytes_a_second = 0.25, 10_000
        world.struck()
        world.worker()
        world.submit()
        wait_until(world.is_over, 180, "every image to be decided over a slow link")
        proxy.delay = proxy.bytes_a_second = 0  # or the dozen bells that are left would take minutes
        world.recover()


@pytest.mark.cell("B7", "the broker's password is another one for 10 s")
def test_a_lock_that_was_changed_is_waited_for_without_a_storm(slow: World) -> None:
    worker = slow.worker()
    slow.submit()
    slow.wait_done(4)
    with slow.broker.client() as client:
        client.config_set("requirepass", "another")
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        time.sleep(10)
        client.config_set("requirepass", slow.broker.password)
    slow.struck()
    slow.recover()
    hears_again(slow, 40)
    assert slow.alive(worker)
    assert slow.log().count("\n") < 300
    assert slow.broker.password not in slow.log()
