"""Clocks that disagree: leases run by the database's clock, whatever a worker's own says."""

import shutil

import pytest

from tests.faults.world import ITEMS, World, raw


@pytest.mark.cell("T2", "the database's clock is set back by an hour, a worker dies", sqlite=True)
def test_leases_and_rests_from_before_the_clock_was_set_back_are_void(world: World) -> None:
    world.settings["FAULTS_SECONDS"] = "0.1"
    world.submit()
    worker = world.worker()
    world.wait_done(8)
    world.kill(worker)
    raw(world, "UPDATE chunks SET lease_until = lease_until + 3600, leased_at = leased_at + 3600")
    raw(world, "UPDATE jobs SET last_claimed_at = last_claimed_at + 3600")
    raw(world, "UPDATE sweeps SET next_at = next_at + 3600")
    raw(world, "UPDATE workers SET heartbeat_at = heartbeat_at + 3600")
    assert "no worker is at work" in world.producer("status").stdout
    world.struck()
    world.worker()
    world.recover()


@pytest.mark.parametrize(
    "shift",
    [
        pytest.param("+2h", marks=pytest.mark.cell("T1a", "a worker's clock is two hours fast")),
        pytest.param("-2h", marks=pytest.mark.cell("T1b", "a worker's clock is two hours slow")),
    ],
)
@pytest.mark.stores("postgresql")
@pytest.mark.skipif(shutil.which("faketime") is None, reason="libfaketime isn't installed: apt-get install faketime")
def test_a_worker_with_a_wrong_clock_takes_nothing_from_others(world: World, shift: str) -> None:
    world.settings["FAULTS_SECONDS"] = "0.1"
    world.submit()
    world.worker()
    world.worker(prefix=("faketime", "--exclude-monotonic", "-f", shift))
    world.wait_done(4)
    world.struck()
    world.faults = ITEMS  # bells may come early and twice: extra work at most
    world.recover()
