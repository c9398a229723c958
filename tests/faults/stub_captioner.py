"""A captioner without a model: its caption is a function of the file's SHA-256, which its opener hands on as pixels.

It stands in for two modules that load torch, so that a worker is up in a second and every caption can be foretold.
"""

import os
import select
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioning.errors import DeviceFailed, DeviceOutOfMemory
from captioning.model.pixels import Pixels, Preprocessing
from captioning.values import Alternative, Caption, DecodeOptions
from tests.faults.failpoints import PLACE, reach

SIZE = 32  # side of the square that the stub asks for: 3 KB, whose first 32 bytes are the SHA-256
_NOUNS = "dog cat boy girl man woman bird horse child surfer climber runner cyclist swimmer dancer crowd"
_VERBS = "runs jumps sits stands plays waits swims climbs rides looks smiles sleeps eats walks talks falls"
_PLACES = "beach field street park river hill snow rain pool court stage kitchen garden forest boat train"
_WORDS = [words.split() for words in (_NOUNS, _VERBS, _PLACES)]


def oracle(sha256: str) -> str:
    """Return the caption of a file."""
    noun, verb, place = (words[byte % 16] for words, byte in zip(_WORDS, bytes.fromhex(sha256)[:3], strict=True))
    return f"a {noun} {verb} by the {place} in {sha256[6:12]}"


@dataclass(frozen=True)
class StubRuntime:
    name: str = "stub"
    device: str = "cpu"
    precision: str = "fp32"
    why: str = "a test"


class StubCaptioner:
    """Captions at a given speed; every image it is given is counted in a file."""

    encode = None
    preprocessing = Preprocessing(size=SIZE)

    def __init__(self) -> None:
        self.seconds = float(os.environ.get("FAULTS_SECONDS", "0"))  # an image
        self.most = int(os.environ.get("FAULTS_DEVICE_HOLDS", "0"))  # images; more fill the device
        self.calls = Path(os.environ[PLACE]) / "model-calls"

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        if not np.any(images[0]):
            return [Caption("warm", (0.0, 0.0))]  # not an image: the worker warms up
        if self.most and len(images) > self.most:
            raise DeviceOutOfMemory("CUDA out of memory. Tried to allocate 2.00 GiB.")
        with self.calls.open("ab") as file:
            file.write(b"." * len(images))
        select.select([], [], [], self.seconds * len(images))  # time.sleep fails where the clock is a false one
        broken = self.calls.with_name("fired-broken")
        if os.environ.get("FAULTS_DEVICE_BREAKS") and not broken.exists():
            broken.touch()
            raise DeviceFailed("CUDA error: an illegal memory access was encountered")
        texts = [oracle(bytes(image.reshape(-1)[:32]).hex()) for image in images]
        reach("captioned")
        return [Caption(text, (-0.5,) * 10, (Alternative("a cat", -9.0),), 0.6) for text in texts]


def install() -> None:
    """Put the stub where the model would be imported from."""
    captioner: Any = types.ModuleType("captioning.model.captioner")
    captioner.Captioner, captioner.GridEncoder = StubCaptioner, object
    runtime: Any = types.ModuleType("captioning.model.runtime")
    runtime.Runtime = StubRuntime
    runtime.choose = lambda *_: StubRuntime()
    runtime.load_captioner = lambda *_: StubCaptioner()
    sys.modules["captioning.model.captioner"] = captioner
    sys.modules["captioning.model.runtime"] = runtime
