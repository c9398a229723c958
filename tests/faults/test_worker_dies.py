"""Workers that are killed or stopped at every step: another worker finishes their work, exactly once."""

import os
import shutil
import signal
import time

import psutil
import pytest

from captioning.store import workers
from tests.faults.world import CHUNK_SIZE, LEASE_SECONDS, World
from tests.support.polling import wait_until


def killed_at(name: str, failpoint: str, what: str, **where: bool) -> object:
    marks = pytest.mark.scenario(name, f"a worker is killed {what}", **where)
    return pytest.param(failpoint, marks=marks, id=name)


@pytest.mark.parametrize(
    "failpoint",
    [
        killed_at("W0", "before_claim@2", "after it receives a wake-up message, before it claims"),
        killed_at("W1", "after_claim@2", "after it claims a chunk"),
        killed_at("W2", "before_decode@5", "while it decodes an image"),
        killed_at("W3", "after_model@3", "after the model runs, before the commit", sqlite=True),
        killed_at("W4", "inside_commit@3", "inside the transaction that writes captions", quick="both", sqlite=True),
        killed_at("W5", "after_commit@3", "after that transaction is committed"),
        killed_at("W6a", "after_complete@2", "after it completes a chunk, before it acknowledges the message",
                  sqlite=True),
        killed_at("W6b", "before_ack@2", "while it acknowledges a message"),
        killed_at("W6c", "after_pop@2", "after it takes a message off the queue, before this is recorded"),
    ],
)  # fmt: skip
def test_a_worker_killed_at_any_step_loses_nothing(world: World, failpoint: str) -> None:
    world.settings["FAULTS_TASK_SECONDS"] = "0"  # one chunk per message, so that messages are acknowledged meanwhile
    world.submit()
    world.start_worker(f"{failpoint}:kill")
    world.wait_for_fault(failpoint.partition("@")[0])
    world.start_worker()
    world.wait_for_recovery()


@pytest.mark.scenario("W7", "only the pool process is killed, while it holds a chunk", quick=True, sqlite=True)
def test_a_killed_pool_process_is_replaced_and_its_chunk_does_not_wait_for_the_lease(world: World) -> None:
    world.settings["CAPTIONING_LEASE_SECONDS"] = "50"
    worker = world.start_worker("after_model@3:die")
    world.submit()
    world.wait_for_fault("after_model")
    world.wait_for_recovery(30)
    assert world.is_alive(worker)


@pytest.mark.scenario("W8", "a worker is stopped for three leases before a commit, then continues", sqlite=True)
def test_a_worker_that_lost_its_lease_writes_nothing(world: World) -> None:
    world.submit()
    stopped = world.start_worker("before_commit@3:stop")  # on the thread that commits: outside of its transactions
    world.wait_for_fault("before_commit")
    world.start_worker()
    world.wait_until_finished(60, "the other worker to finish the job")
    time.sleep(max(0.0, world.fault_at + 3 * LEASE_SECONDS - time.time()))
    os.killpg(stopped.pid, signal.SIGCONT)
    wait_until(lambda: "lease_lost" in world.log(0), 30, "the fence to refuse the late commit")
    world.wait_for_recovery()
    assert world.is_alive(stopped)


def end(worker: psutil.Process, how: str) -> None:
    if how == "terminate":
        worker.terminate()
    elif how == "terminate twice":
        worker.terminate()
        time.sleep(0.5)
        worker.terminate()
    elif how == "quit":
        worker.send_signal(signal.SIGQUIT)
    else:  # all its processes, as systemd does
        os.killpg(worker.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("terminate", marks=pytest.mark.scenario("W9a", "SIGTERM in the middle of a chunk")),
        pytest.param("terminate twice", marks=pytest.mark.scenario("W9b", "SIGTERM twice in the middle of a chunk")),
        pytest.param("quit", marks=pytest.mark.scenario("W9c", "SIGQUIT in the middle of a chunk")),
        pytest.param(
            "group", marks=pytest.mark.scenario("W9d", "SIGTERM to every process of a worker, as systemd sends it")
        ),
    ],
)
def test_a_worker_that_is_asked_to_end_ends_and_blames_no_image(world: World, how: str) -> None:
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.1"
    world.submit()
    worker = world.start_worker()
    world.wait_for_items(4)
    end(worker, how)
    world.mark_fault()
    wait_until(lambda: not world.is_alive(worker), 30, "the worker to end")
    assert not world.is_finished()
    world.start_worker()
    world.wait_for_recovery()
    assert world.scalar("SELECT sum(attempts) FROM items") == 0


@pytest.mark.scenario("W9e", "workers are replaced one after another, five times")
def test_a_rolling_restart_loses_nothing(world: World) -> None:
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.2"
    world.submit()
    worker = world.start_worker()
    for finished in range(4, 24, 4):
        world.wait_for_items(finished)
        successor = world.start_worker()
        worker.terminate()
        world.mark_fault()
        worker = successor
    world.faults = 5
    world.wait_for_recovery()


@pytest.mark.scenario("W9f", "SIGTERM after the worker's temporary folder was deleted", sqlite=True)
def test_a_worker_without_its_temporary_folder_still_releases_its_chunk(world: World) -> None:
    temporary = world.folder / "tmp"
    temporary.mkdir()
    world.settings |= {"FAULTS_SECONDS_PER_IMAGE": "0.5", "TMPDIR": str(temporary)}
    world.submit()
    worker = world.start_worker()
    world.wait_for_items(2)
    shutil.rmtree(temporary)
    temporary.mkdir()
    before = world.finished_items
    worker.terminate()
    world.mark_fault()
    wait_until(lambda: not world.is_alive(worker), 30, "the worker to end")
    assert world.finished_items <= before + CHUNK_SIZE
    assert world.scalar("SELECT count(*) FROM chunks WHERE state = 'running'") == 0
    world.start_worker()
    world.wait_for_recovery()


@pytest.mark.scenario("W11", "two workers cannot see the images, a third one can", sqlite=True)
def test_workers_that_cannot_see_the_images_take_no_work(world: World) -> None:
    (world.folder / "other").mkdir()
    (world.folder / "other" / "file").touch()
    for _ in range(2):
        world.start_worker(CAPTIONING_ROOTS=f"other={world.folder}/other")
    wait_until(lambda: len(workers.live_workers(world.db)) == 2, 60, "two workers")
    world.submit()
    wait_until(world.broker.is_empty, 30, "the two workers to take the wake-up messages, without effect")
    wait_until(  # heartbeats, every 5 s, report the roots that a worker sees
        lambda: "no worker sees the root 'images'" in world.run_producer("status").stdout, 30, "status to report this"
    )
    world.start_worker()
    wait_until(lambda: len(workers.live_workers(world.db)) == 3, 60, "the third worker")
    world.mark_fault()
    world.wait_for_recovery()


@pytest.mark.scenario("W12", "a worker's parent process cannot open any more files")
def test_a_worker_that_cannot_continue_exits_with_an_error_code(world: World) -> None:
    world.submit()
    worker = world.start_worker(prefix=("sh", "-c", 'ulimit -n 22; exec "$0" "$@"'))
    wait_until(lambda: not world.is_alive(worker), 60, "the worker to give up")
    assert world.exit_code(worker) not in (0, None)
    world.start_worker()
    world.mark_fault()
    world.wait_for_recovery()


@pytest.mark.scenario(
    "W10", "both workers are killed, one is started again; the broker would redeliver after an hour", sqlite=True
)
def test_leases_recover_work_long_before_the_broker_would(world: World) -> None:
    world.settings |= {"FAULTS_VISIBILITY_SECONDS": "3600", "FAULTS_SECONDS_PER_IMAGE": "0.1"}
    world.submit()
    both = [world.start_worker(), world.start_worker()]
    world.wait_for_items(8)
    for worker in both:
        world.kill(worker)
    world.mark_fault()
    world.faults = 2
    world.start_worker()
    world.wait_until_finished(60, "the restarted worker to finish the job")
    world.drop_unacknowledged()
    world.wait_for_recovery()
