"""Submits that are killed, doubled, or run without a broker: rows come first, wake-up messages after."""

import subprocess
import sys

import pytest

from captioning.store import jobs
from tests.faults.world import ITEMS, PROJECT, World

KILLED = -9


@pytest.mark.scenario("P0", "a submit is killed before it commits its rows", sqlite=True)
def test_a_submit_killed_before_its_commit_stores_nothing_and_can_be_repeated(world: World) -> None:
    world.run_producer("submit", str(world.images), failpoints="inside_registration:kill", code=KILLED)
    world.mark_fault()
    assert world.scalar("SELECT count(*) FROM items") == world.scalar("SELECT count(*) FROM chunks") == 0
    world.start_worker()
    world.submit()
    assert world.job == 1
    world.wait_for_recovery()


def killed_at(point: str, name: str, what: str, *, quick: bool = False) -> object:
    return pytest.param(point, marks=pytest.mark.scenario(name, f"a submit is killed {what}", quick=quick), id=name)


@pytest.mark.parametrize(
    "point",
    [
        killed_at("after_registration", "P1a", "right after it commits the end of the registration"),
        killed_at("before_wake_up", "P1b", "after its commits, before it sends wake-up messages", quick=True),
        killed_at("after_wake_up", "P2", "right after it sends wake-up messages"),
    ],
)
def test_workers_finish_a_committed_job_without_the_producer(world: World, point: str) -> None:
    world.start_worker()
    world.run_producer("submit", str(world.images), failpoints=f"{point}:kill", code=KILLED)
    world.wait_for_fault(point)
    world.wait_for_recovery()
    world.submit()
    progress = jobs.progress(world.db)[0]
    assert (progress.known, progress.failed_before, progress.total) == (ITEMS - 1, 1, 0)


@pytest.mark.scenario("P3", "one folder is submitted twice at the same time", sqlite=True)
def test_two_submits_at_once_make_one_caption_per_image(world: World) -> None:
    world.start_worker()
    submits = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.producer", "submit", str(world.images)],
            env=world.environment(),
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [submit.wait(60) for submit in submits] == [0, 0]
    world.mark_fault()
    world.wait_for_recovery()


@pytest.mark.scenario("P4", "the broker is down during a submit and starts later")
def test_a_submit_without_a_broker_queues_the_job_and_warns(world: World) -> None:
    world.broker.kill()
    world.mark_fault()
    result = world.run_producer("submit", str(world.images))
    assert result.stderr.count("\n") == 1
    assert "the broker does not answer" in result.stderr
    assert world.broker.password not in result.stderr
    world.start_worker()
    world.broker.start()
    world.wait_for_recovery()
