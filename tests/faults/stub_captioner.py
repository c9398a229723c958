"""A captioner without a model: the caption is a function of the file's SHA-256, which arrives as the first pixels.

It replaces the two modules that load torch. So a worker starts in a second, and the expected caption of every image is
known.
"""

import os
import select
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioning.errors import DeviceFailed, DeviceOutOfMemory
from captioning.model.pixels import Pixels, Preprocessing
from captioning.values import Alternative, Caption, DecodeOptions
from tests.faults.failpoints import fired_file, reach, shared_dir

SIZE = 32  # side of the images that the stub takes: 3 KB, of which the first 32 bytes are the SHA-256
MODEL_RUNS = "model-runs"  # file with one byte for each image that went through the model
_NOUNS = "dog cat boy girl man woman bird horse child surfer climber runner cyclist swimmer dancer crowd"
_VERBS = "runs jumps sits stands plays waits swims climbs rides looks smiles sleeps eats walks talks falls"
_PLACES = "beach field street park river hill snow rain pool court stage kitchen garden forest boat train"
_WORDS = [words.split() for words in (_NOUNS, _VERBS, _PLACES)]


def expected_caption(sha256: str) -> str:
    """Return the caption that the stub gives to a file."""
    noun, verb, place = (words[byte % 16] for words, byte in zip(_WORDS, bytes.fromhex(sha256)[:3], strict=True))
    return f"a {noun} {verb} by the {place} in {sha256[6:12]}"


@dataclass(frozen=True)
class StubRuntime:
    name: str = "stub"
    device: str = "cpu"
    precision: str = "fp32"
    precisions: str = "fp32+fp32"
    why: str = "a test"

    def for_bundle(self, bundle: object) -> "StubRuntime":
        return self


@dataclass
class StubCaptioner:
    """Caption at a given speed, and count every image in a file."""

    encode: Any = StubRuntime.for_bundle  # any function: it is not called
    preprocessing = Preprocessing(size=SIZE)

    def __post_init__(self) -> None:
        self.seconds_per_image = float(os.environ.get("FAULTS_SECONDS_PER_IMAGE", "0"))
        self.device_capacity = int(os.environ.get("FAULTS_DEVICE_CAPACITY", "0"))  # images; 0: no limit
        self.device_fails = bool(os.environ.get("FAULTS_DEVICE_FAILS"))  # once
        self.model_runs = shared_dir() / MODEL_RUNS

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        if not np.any(images[0]):
            return [Caption("warm", (0.0, 0.0))]  # not an image: the worker warms up
        if self.device_capacity and len(images) > self.device_capacity:
            raise DeviceOutOfMemory("CUDA out of memory. Tried to allocate 2.00 GiB.")
        with self.model_runs.open("ab") as file:
            file.write(b"." * len(images))
        select.select([], [], [], self.seconds_per_image * len(images))  # time.sleep does not work under faketime
        if self.device_fails and not fired_file("device").exists():
            fired_file("device").touch()
            raise DeviceFailed("CUDA error: an illegal memory access was encountered")
        texts = [expected_caption(bytes(image.reshape(-1)[:32]).hex()) for image in images]
        reach("after_model")
        return [Caption(text, (-0.5,) * 10, (Alternative("a cat", -9.0),), 0.6) for text in texts]


def install() -> None:
    """Put the stub in place of the modules from which the worker imports the model."""
    captioner: Any = types.ModuleType("captioning.model.captioner")
    captioner.Captioner, captioner.GridEncoder = StubCaptioner, object
    runtime: Any = types.ModuleType("captioning.model.runtime")
    runtime.Runtime = StubRuntime
    runtime.choose_runtime = lambda *_: StubRuntime()
    runtime.load_captioner = lambda *_: StubCaptioner()
    descriptions: Any = types.ModuleType("captioning.model.descriptions")
    descriptions.preprocessing_of = lambda _: StubCaptioner.preprocessing
    sys.modules["captioning.model.descriptions"] = descriptions
    sys.modules["captioning.model.captioner"] = captioner
    sys.modules["captioning.model.runtime"] = runtime
