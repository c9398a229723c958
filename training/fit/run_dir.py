"""The folder of a run: what it was begun with, so that nothing else goes on in it."""

import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from captioning.errors import UsageError
from captioning.values import digest_of
from training.config import TrainConfig
from training.data.corpus import Corpus
from training.data.encoders import EncoderFile
from training.fit.checkpoints import LAST

CONFIG, VERSIONS = "config.json", "versions.json"


def wanted_of(config: TrainConfig, encoder: EncoderFile) -> dict[str, Any]:
    """Return what a run is to be begun with."""
    wanted: dict[str, Any] = json.loads(json.dumps({"config": asdict(config), "encoder": encoder.digest}))
    return wanted


def check_begun(run: Path, wanted: dict[str, Any], *, resume: bool) -> None:
    """Raise UsageError rather than write over a run, or go on with one that was begun with other settings."""
    path = run / CONFIG
    if not path.exists():
        return
    if not resume:
        raise UsageError(f"{run} holds a run already: add --resume to go on with it, or name another folder.")
    if not begun_as(path, wanted):
        raise UsageError(f"{run} was begun with other settings (see {path.name}); a run is resumed as it was begun.")
    if not (run / LAST).exists():
        print(f"no checkpoint in {run} yet: beginning anew", file=sys.stderr)


def begin(run: Path, wanted: dict[str, Any], corpus: Corpus) -> None:
    """Make the folder, if it isn't there. Raises UsageError when it was begun on other images or captions."""
    path, ours = run / CONFIG, captions_digest(corpus)
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_text_atomic(run / VERSIONS, json.dumps(_versions(), indent=1) + "\n")
        write_text_atomic(path, json.dumps(wanted | {"captions": ours}, indent=1) + "\n")
    elif json.loads(path.read_text()).get("captions", ours) != ours:
        raise UsageError(
            f"{run} was begun on other images or captions than {corpus.images} has now: name another folder."
        )


def begun_as(path: Path, wanted: dict[str, Any]) -> bool:
    """Tell whether a run's config file says what is wanted; how many threads it takes is nobody's concern."""
    begun = json.loads(path.read_text())
    config = json.loads(json.dumps(asdict(TrainConfig()))) | begun["config"]  # of a time with fewer settings
    same = all(config[name] == value for name, value in wanted["config"].items() if name != "threads")
    return bool(same and begun["encoder"] == wanted["encoder"])


def captions_digest(corpus: Corpus) -> str:
    """Return what tells a corpus from one with other images or words to learn from or to choose by."""
    return digest_of([(name, list(corpus.captions[name])) for name in (*corpus.train, *corpus.val)])


def write_text_atomic(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text)
    unfinished.replace(path)


def _versions() -> dict[str, str]:
    packages = ("captionmill", "torch", "torchvision", "lightning-fabric", "numpy", "pillow", "nltk", "pycocoevalcap")
    return {"python": platform.python_version(), "platform": platform.platform()} | {p: version(p) for p in packages}
