"""Submits that are killed, doubled or meet a broker that is down: rows first, bells after, the same command goes on."""

import subprocess
import sys

import pytest

from captioning.store import jobs
from tests.faults.world import ITEMS, PROJECT, World

KILLED = -9


@pytest.mark.cell("P0", "a submit is killed before its rows are committed", sqlite=True)
def test_before_the_commit_nothing_is_stored_and_the_same_command_goes_on(world: World) -> None:
    world.producer("submit", str(world.images), faults="registering:kill", code=KILLED)
    world.struck()
    assert world.one("SELECT count(*) FROM items") == world.one("SELECT count(*) FROM chunks") == 0
    world.worker()
    world.submit()
    assert world.job == 1
    world.recover()


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(
            "registered", marks=pytest.mark.cell("P1a", "a submit is killed after its commit, before it looks again")
        ),
        pytest.param(
            "ringing", marks=pytest.mark.cell("P1b", "a submit is killed after its commit, before it rings", quick=True)
        ),
        pytest.param("rang", marks=pytest.mark.cell("P2", "a submit is killed just after it rang")),
    ],
)
def test_after_the_commit_workers_finish_without_the_producer(world: World, where: str) -> None:
    world.worker()
    world.producer("submit", str(world.images), faults=f"{where}:kill", code=KILLED)
    world.wait_for_strike(where)
    world.recover()
    world.submit()
    assert jobs.progress(world.db)[0].known == ITEMS - 1  # the one that failed is new again
    world.recover()


@pytest.mark.cell("P3", "one folder is submitted twice at the same moment", quick=True, sqlite=True)
def test_two_submits_at_once_make_one_caption_a_image(world: World) -> None:
    world.worker()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.producer", "submit", str(world.images)],
            env=world.environment(),
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [one.wait(60) for one in both] == [0, 0]
    world.struck()
    world.recover()


@pytest.mark.cell("P4", "the broker is down during a submit and comes up later")
def test_a_submit_without_a_broker_is_queued_and_says_so(world: World) -> None:
    world.broker.kill()
    world.struck()
    said = world.producer("submit", str(world.images))
    assert said.stderr.count("\n") == 1
    assert "the broker doesn't answer" in said.stderr
    assert world.broker.password not in said.stderr
    world.worker()
    world.broker.start()
    world.recover()
