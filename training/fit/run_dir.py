"""The folder of a run: it records what the run was started with, and a run resumes only with the same."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from captioning.atomic import write_text
from captioning.errors import UsageError
from captioning.values import digest_of
from training.config import TrainConfig
from training.data.batches import TrainingData
from training.data.corpus import Corpus
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile
from training.data.texts import Words
from training.fit.checkpoints import LAST

CONFIG, VERSIONS = "config.json", "versions.json"
_PACKAGES = ("captionmill", "torch", "torchvision", "lightning-fabric", "numpy", "pillow", "nltk", "pycocoevalcap")


def run_settings(config: TrainConfig, encoder: EncoderFile, data: Sequence[DataFolder]) -> dict[str, Any]:
    """Return what a run is to be started with, as it is in JSON."""
    return {"config": _to_json(config), "encoder": encoder.digest, "weights": [part.weight for part in data]}


def check_resumable(run: Path, wanted: dict[str, Any], *, resume: bool) -> None:
    """Raise UsageError instead of overwriting a run, or resuming one that was started with other settings."""
    path = run / CONFIG
    if not path.exists():
        return
    if not resume:
        raise UsageError(f"{run} contains a run already: add --resume to continue it, or give another folder.")
    if not started_with(path, wanted):
        raise UsageError(f"{run} was started with other settings, see {path.name}: resume it with the same.")
    if not (run / LAST).exists():
        print(f"no checkpoint in {run} yet: starting from the beginning", file=sys.stderr)


def record_start(run: Path, wanted: dict[str, Any], data: TrainingData) -> None:
    """Record what a new run is started with. Raises UsageError when it was started on other images or captions."""
    corpus = data.corpus
    path, digest = run / CONFIG, captions_digest(corpus, data.texts)
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / VERSIONS, json.dumps(_versions(), indent=1) + "\n")
        write_text(path, json.dumps(wanted | {"captions": digest}, indent=1) + "\n")  # last: it marks a started run
    elif json.loads(path.read_text()).get("captions", digest) != digest:
        raise UsageError(
            f"{run} was started on other images or captions than {corpus.image_folder} has now: give another folder."
        )


def started_with(path: Path, wanted: dict[str, Any]) -> bool:
    """Return whether a run's config file has the wanted content. What depends on the machine may differ."""
    started = json.loads(path.read_text())
    machine = {name: wanted["config"][name] for name in ("threads", "reward_processes")}
    config = complete_config(started["config"]) | machine
    same_weights = started.get("weights", [1.0] * len(wanted["weights"])) == wanted["weights"]
    return bool(config == wanted["config"] and started["encoder"] == wanted["encoder"] and same_weights)


def complete_config(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the defaults of the fields that did not exist yet when it was recorded."""
    return _to_json(TrainConfig()) | recorded


def captions_digest(corpus: Corpus, texts: Sequence[Words] = ()) -> str:
    """Return a digest of the training and val images with their captions, and of the captions without images."""
    images = [(name, list(corpus.captions[name])) for name in (*corpus.train, *corpus.val)]
    return digest_of([images, texts] if texts else images)


def _to_json(config: TrainConfig) -> dict[str, Any]:
    """Return a config as it is after a round trip through JSON, which turns tuples into lists."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "platform": platform.platform()} | {p: version(p) for p in _PACKAGES}
