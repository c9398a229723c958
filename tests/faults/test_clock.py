"""Clocks that disagree: leases depend on the database's clock, not on a worker's."""

import shutil

import pytest

from tests.faults.world import ITEMS, World


@pytest.mark.scenario("T2", "the database's clock is set back by an hour, and a worker is killed", sqlite=True)
def test_leases_and_backoffs_from_before_the_clock_was_set_back_are_void(world: World) -> None:
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.1"
    world.submit()
    worker = world.start_worker()
    world.wait_for_items(8)
    world.kill(worker)
    # moving all stored times forward looks like a clock that was set back
    world.execute("UPDATE chunks SET lease_until = lease_until + 3600, leased_at = leased_at + 3600")
    world.execute("UPDATE jobs SET last_claimed_at = last_claimed_at + 3600")
    world.execute("UPDATE sweeps SET next_at = next_at + 3600")
    world.execute("UPDATE workers SET heartbeat_at = heartbeat_at + 3600")
    assert "no worker is running" in world.run_producer("status").stdout
    world.mark_fault()
    world.start_worker()
    world.wait_for_recovery()


@pytest.mark.parametrize(
    "shift",
    [
        pytest.param("+2h", marks=pytest.mark.scenario("T1a", "a worker's clock is two hours fast"), id="T1a"),
        pytest.param("-2h", marks=pytest.mark.scenario("T1b", "a worker's clock is two hours slow"), id="T1b"),
    ],
)
@pytest.mark.stores("postgresql")
@pytest.mark.skipif(shutil.which("faketime") is None, reason="libfaketime is not installed: apt-get install faketime")
def test_a_worker_with_a_wrong_clock_takes_no_chunk_from_others(world: World, shift: str) -> None:
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.1"
    world.submit()
    world.start_worker()
    world.start_worker(prefix=("faketime", "--exclude-monotonic", "-f", shift))
    world.wait_for_items(4)
    world.mark_fault()
    world.faults = ITEMS  # wake-up messages may come early and twice, which costs extra model runs at most
    world.wait_for_recovery()
