"""A corpus of four freely licensed photographs, and the encoder of the built-in models."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.sample_images import copy_samples
from training.config import TrainConfig
from training.data.encoders import EncoderFile, open_encoder

CAPTIONS = {
    "astronaut.png": "A woman in an orange suit smiles at the camera .",
    "chelsea.png": "A striped cat looks at something .",
    "coffee.png": "A cup of coffee stands on a wooden table .",
    "rocket.jpg": "A rocket stands on its launch pad at night .",
}

VAL = tuple(f"val-{name}" for name in CAPTIONS)

MEMORISING = TrainConfig(
    epochs=40,
    learning_rate=1e-2,
    warmup_steps=5,
    min_count=1,
    hidden_size=64,
    memory_size=64,
    ema_decay=0.8,
    label_smoothing=0.0,
    captions_per_image=2,
)


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what Matplotlib caches out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONING_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with five captions each, as train and again as val split, and the errors of real corpora."""
    folder = tmp_path_factory.mktemp("corpus")
    copy_samples(folder / "Images")
    for name in CAPTIONS:
        shutil.copy(folder / "Images" / name, folder / "Images" / f"val-{name}")
    lines = [f'{start}{name},"{text}"' for start in ("", "val-") for name, text in CAPTIONS.items() for _ in range(5)]
    lines += ["2258277193_586949ec62.jpg.1,A caption without an image .", "flower.jpg,"]
    (folder / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n")
    (folder / "Flickr_8k.trainImages.txt").write_text("\n".join(CAPTIONS) + "\n")
    (folder / "Flickr_8k.devImages.txt").write_text("\n".join(VAL) + "\nnobody.jpg\n")
    return folder


@pytest.fixture(scope="session")
def encoder() -> EncoderFile:
    """The encoder of the built-in models."""
    return open_encoder(Path("lstm"), None, Path())


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests of the session share."""
    return tmp_path_factory.mktemp("cache")
