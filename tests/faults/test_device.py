"""Devices that are full or broken, and models that aren't what they say."""

import json
import shutil

import pytest

from captioning.bundles import BUILT_IN
from tests.faults.world import World
from tests.support.servers import wait_until

pytestmark = pytest.mark.stores("postgresql")


@pytest.mark.cell("G1a", "the device has memory for one image at a time")
def test_a_full_device_gets_half_as_much(world: World) -> None:
    worker = world.worker(FAULTS_DEVICE_HOLDS="1")
    pool = world.pool_process(worker).pid
    world.submit()
    world.struck()
    world.recover()
    assert "device_full" in world.log()
    assert world.pool_process(worker).pid == pool


@pytest.mark.cell("G1b", "the device fails for good in this process: a sticky error", quick=True)
def test_a_broken_device_ends_its_process_and_loses_nothing(world: World) -> None:
    worker = world.worker(FAULTS_DEVICE_BREAKS="1")
    pool = world.pool_process(worker).pid
    world.submit()
    world.wait_for_strike("broken")
    world.recover()
    assert "device_broken" in world.log()
    assert world.pool_process(worker).pid != pool
    assert world.alive(worker)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param("weights", "has digest", marks=pytest.mark.cell("G2a", "the weights are others")),
        pytest.param("gone", "no model named", marks=pytest.mark.cell("G2b", "the model is not there")),
        pytest.param("json", "no model named", marks=pytest.mark.cell("G2c", "the model's description is damaged")),
    ],
)  # fmt: skip
def test_a_worker_without_its_model_takes_nothing(world: World, damage: str, says: str) -> None:
    models = world.folder / "models"
    shutil.copytree(BUILT_IN, models)
    folder = models / "flickr8k-gru"
    described = json.loads((folder / "bundle.json").read_text()) | {"name": "mine"}
    (folder / "bundle.json").write_text(json.dumps(described))
    world.settings |= {"CAPTIONING_BUNDLES": str(models), "CAPTIONING_MODEL": "mine"}
    world.submit()
    with world.broker.client() as client:
        bells = client.llen("captionmill:captions")
    if damage == "weights":
        with (folder / "decoder.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"?")
    elif damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "bundle.json").write_text("{")
    worker = world.worker()
    wait_until(lambda: not world.alive(worker), 40, "the worker to give up")
    assert says in world.log().splitlines()[-1]
    assert "Traceback" not in world.log()
    with world.broker.client() as client:
        assert client.llen("captionmill:captions") == bells
    assert world.one("SELECT count(*) FROM chunks WHERE fence > 0") == 0
    del world.settings["CAPTIONING_MODEL"]
    world.struck()
