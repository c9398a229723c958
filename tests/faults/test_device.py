"""Devices that are out of memory or failed, and models that are damaged or missing."""

import json
import shutil

import pytest

from captioning.bundles import BUILT_IN
from tests.faults.world import World
from tests.support.polling import wait_until

pytestmark = pytest.mark.stores("postgresql")


@pytest.mark.scenario("G1a", "the device has memory for one image at a time")
def test_a_device_out_of_memory_gets_smaller_batches(world: World) -> None:
    worker = world.start_worker(FAULTS_DEVICE_CAPACITY="1")
    pool = world.pool_process(worker).pid
    world.submit()
    world.mark_fault()
    world.wait_for_recovery()
    assert "device_out_of_memory" in world.log()
    assert world.pool_process(worker).pid == pool


@pytest.mark.scenario("G1b", "the device fails for the rest of the process (a sticky error)", quick=True)
def test_a_failed_device_ends_the_pool_process_and_loses_nothing(world: World) -> None:
    worker = world.start_worker(FAULTS_DEVICE_FAILS="1")
    pool = world.pool_process(worker).pid
    world.submit()
    world.wait_for_fault("device")
    world.wait_for_recovery()
    assert "device_failed" in world.log()
    assert world.pool_process(worker).pid != pool
    assert world.is_alive(worker)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param("weights", "has digest", marks=pytest.mark.scenario("G2a", "the model's weights were changed")),
        pytest.param("gone", "no model named", marks=pytest.mark.scenario("G2b", "the model is missing")),
        pytest.param("json", "no model named", marks=pytest.mark.scenario("G2c", "the model's bundle.json is damaged")),
    ],
)
def test_a_worker_without_its_model_claims_nothing(world: World, damage: str, message: str) -> None:
    models = world.folder / "models"
    shutil.copytree(BUILT_IN, models)
    folder = models / "gru"
    config = json.loads((folder / "bundle.json").read_text()) | {"name": "mine"}
    (folder / "bundle.json").write_text(json.dumps(config))
    world.settings |= {"CAPTIONING_BUNDLES": str(models), "CAPTIONING_MODEL": "mine"}
    world.submit()
    queued = world.broker.message_counts()
    if damage == "weights":
        with (folder / "decoder.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"?")
    elif damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "bundle.json").write_text("{")
    worker = world.start_worker()
    wait_until(lambda: not world.is_alive(worker), 40, "the worker to give up")
    assert message in world.log().splitlines()[-1]
    assert "Traceback" not in world.log()
    assert world.broker.message_counts() == queued
    assert world.scalar("SELECT count(*) FROM chunks WHERE fence > 0") == 0
    del world.settings["CAPTIONING_MODEL"]
    world.mark_fault()
