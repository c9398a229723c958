"""Clocks that disagree: leases run by the database's clock, whatever a worker's own says."""

import shutil

import pytest

from tests.faults.world import ITEMS, World


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
