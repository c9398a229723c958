"""Workers that are killed, stopped or cut down at every step: what they had in hand is done by somebody, once."""

import os
import shutil
import signal
import time

import psutil
import pytest

from tests.faults.world import World
from tests.support.servers import wait_until


def dies(name: str, when: str, what: str, **where: bool) -> object:
    return pytest.param(when, marks=pytest.mark.cell(name, f"a worker is killed {what}", **where), id=name)


@pytest.mark.parametrize(
    "when",
    [
        dies("W0", "received@2", "after a bell, before it claims"),
        dies("W1", "claimed@2", "after it claimed a chunk"),
        dies("W2", "opening@5", "with an image half opened"),
        dies("W3", "captioned@3", "after the model ran, before the rows", sqlite=True),
        dies("W4", "recording@3", "inside the transaction that writes captions", quick=True, sqlite=True),
        dies("W5", "recorded@3", "after that transaction's commit"),
        dies("W6a", "finished@2", "after its chunk is closed, before the bell is acknowledged", sqlite=True),
        dies("W6b", "acking@2", "while it acknowledges a bell"),
        dies("W6c", "popped@2", "with a bell off the list and noted nowhere"),
    ],
)
def test_a_worker_killed_at_any_step_loses_nothing(world: World, when: str) -> None:
    world.settings["FAULTS_TASK"] = "0"  # a bell a chunk, so that some are acknowledged while there is work
    world.submit()
    world.worker(f"{when}:kill")
    world.wait_for_strike(when.partition("@")[0])
    world.worker()
    world.recover()


@pytest.mark.cell("W7", "the pool process alone is killed with a chunk in hand", quick=True, sqlite=True)
def test_a_killed_pool_process_is_replaced_and_its_chunk_goes_on_without_waiting_for_the_lease(world: World) -> None:
    world.settings["CAPTIONING_LEASE_SECONDS"] = "50"
    worker = world.worker("captioned@3:die")
    world.submit()
    world.wait_for_strike("captioned")
    world.recover(30)
    assert world.alive(worker)


@pytest.mark.cell("W8", "a worker is stopped for three leases with captions in hand, then goes on", sqlite=True)
def test_a_worker_that_comes_back_from_the_dead_changes_nothing(world: World) -> None:
    world.submit()
    zombie = world.worker("captioned@3:stop")
    world.wait_for_strike("captioned")
    world.worker()
    wait_until(world.is_over, 60, "the other worker to finish")
    time.sleep(max(0.0, world.struck_at + 3 * 4.5 - time.time()))
    os.killpg(zombie.pid, signal.SIGCONT)
    wait_until(lambda: "chunk_taken_away" in world.log(0), 30, "the fence to refuse the zombie")
    world.recover()
    assert world.alive(zombie)


def end(worker: psutil.Process, how: str) -> None:
    if how == "terminate":
        worker.terminate()
    elif how == "terminate twice":
        worker.terminate()
        time.sleep(0.5)
        worker.terminate()
    elif how == "quit":
        worker.send_signal(signal.SIGQUIT)
    else:  # every process of it, as systemd does
        os.killpg(worker.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("terminate", marks=pytest.mark.cell("W9a", "SIGTERM in the middle of a chunk", quick=True)),
        pytest.param("terminate twice", marks=pytest.mark.cell("W9b", "SIGTERM twice in the middle of a chunk")),
        pytest.param("quit", marks=pytest.mark.cell("W9c", "SIGQUIT in the middle of a chunk")),
        pytest.param("group", marks=pytest.mark.cell("W9d", "SIGTERM to every process of a worker, as systemd sends")),
    ],
)
def test_a_worker_asked_to_end_in_any_way_ends_and_blames_no_image(world: World, how: str) -> None:
    world.settings["FAULTS_SECONDS"] = "0.1"
    world.submit()
    worker = world.worker()
    world.wait_done(4)
    end(worker, how)
    world.struck()
    wait_until(lambda: not world.alive(worker), 30, "the worker to end")
    assert not world.is_over()
    world.worker()
    world.recover()
    assert world.one("SELECT sum(attempts) FROM items") == 0


@pytest.mark.cell("W9e", "workers are replaced one after the other, five times")
def test_a_rolling_restart_loses_nothing(world: World) -> None:
    world.settings["FAULTS_SECONDS"] = "0.2"
    world.submit()
    worker = world.worker()
    for done in range(4, 24, 4):
        world.wait_done(done)
        successor = world.worker()
        worker.terminate()
        world.struck()
        worker = successor
    world.faults = 5
    world.recover()


@pytest.mark.cell("W9f", "SIGTERM after somebody tidied up among the temporary files", sqlite=True)
def test_a_worker_whose_temporary_folder_is_gone_still_puts_its_work_down(world: World) -> None:
    temporary = world.folder / "tmp"
    temporary.mkdir()
    world.settings |= {"FAULTS_SECONDS": "0.5", "TMPDIR": str(temporary)}
    world.submit()
    worker = world.worker()
    world.wait_done(2)
    shutil.rmtree(temporary)
    temporary.mkdir()
    before = world.done
    worker.terminate()
    world.struck()
    wait_until(lambda: not world.alive(worker), 30, "the worker to end")
    assert world.done <= before + 4
    assert world.one("SELECT count(*) FROM chunks WHERE state = 'running'") == 0
    world.worker()
    world.recover()


@pytest.mark.cell("W11", "two workers that don't see the images stand beside one that does", sqlite=True)
def test_workers_that_see_nothing_take_no_work_from_one_that_does(world: World) -> None:
    (world.folder / "other").mkdir()
    (world.folder / "other" / "file").touch()
    for _ in range(2):
        world.worker(CAPTIONING_ROOTS=f"other={world.folder}/other")
    wait_until(lambda: len(workers.live_workers(world.db)) == 2, 60, "both")
    world.submit()
    wait_until(world.broker.at_rest, 30, "the bells to be heard by workers that can do nothing about them")
    assert "no worker sees the root 'images'" in world.producer("status").stdout
    world.worker()
    wait_until(lambda: len(workers.live_workers(world.db)) == 3, 60, "the third")
    world.struck()
    world.recover(20)


@pytest.mark.cell("W12", "a worker's parent can open no more files")
def test_a_worker_that_can_not_go_on_says_so_by_its_exit_code(world: World) -> None:
    world.submit()
    worker = world.worker(prefix=("sh", "-c", 'ulimit -n 22; exec "$0" "$@"'))
    wait_until(lambda: not world.alive(worker), 60, "the worker to give up")
    assert world.exit_code(worker) not in (0, None)
    world.worker()
    world.struck()
    world.recover()


@pytest.mark.cell("W10", "both workers are killed, one is started again; the broker would wait an hour", sqlite=True)
def test_leases_bring_work_back_long_before_the_broker_would(world: World) -> None:
    world.settings |= {"FAULTS_VISIBILITY": "3600", "FAULTS_SECONDS": "0.1"}
    world.submit()
    both = [world.worker(), world.worker()]
    world.wait_done(8)
    for worker in both:
        world.kill(worker)
    world.struck()
    world.faults = 2
    world.worker()
    wait_until(world.is_over, 60, "the restarted worker to finish")
    world.forget_unacknowledged()
    world.recover()
