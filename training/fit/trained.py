"""The results of training: decoders of a finished run or of a bundle, with their vocabulary and their history."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from captioning.bundles import read_bundle
from captioning.errors import UsageError
from captioning.model.concepts import ConceptClassifier
from captioning.model.decoder import CaptionDecoder, DecoderConfig, make_decoder
from captioning.model.load_bundle import load_classifier, load_decoder
from captioning.model.vocabulary import Vocabulary
from training.fit.checkpoints import BEST
from training.fit.network import CaptioningNetwork

ABOUT = "run.json"
_HISTORY = (
    "config",
    "best_epoch",
    "val",
    "images",
    "texts",
    "start",
)  # what the next run records of the one that it continues


@dataclass(frozen=True)
class Start:
    """Trained decoders that a run trains further."""

    decoders: dict[str, CaptionDecoder]  # by cell
    vocabulary: Vocabulary
    about: dict[str, Any]  # how they were trained, for the model card
    head: nn.Linear | None = None  # of the classifier that sees their concepts

    @property
    def concepts(self) -> int:
        """How many concepts they read."""
        return next(iter(self.decoders.values())).config.concepts


def best_network(run: Path) -> tuple[dict[str, Any], CaptioningNetwork]:
    """Return the description of a finished run, and its decoders in evaluation mode.

    Raises UsageError when the run does not exist, is not finished, or has files that this version cannot load.
    """
    if not (run / ABOUT).exists():
        raise UsageError(f"{run} contains no finished run: `training train --run {run} --resume` finishes it.")
    try:
        about: dict[str, Any] = json.loads((run / ABOUT).read_text())
        decoders = {c: make_decoder(DecoderConfig(**shape)) for c, shape in about["decoders"].items()}
        network = CaptioningNetwork(decoders, None, _classifier(about))
        weights = load_file(run / BEST)
        network.load_state_dict({n: t for n, t in weights.items() if n.startswith(("decoders.", "classifier."))})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UsageError(
            f"cannot load the decoders of {run}: {ABOUT} or {BEST} is damaged or of another version. Train them again."
        ) from error
    return about, network.eval()


def _classifier(about: Mapping[str, Any]) -> ConceptClassifier | None:
    """Return the classifier that a run's decoders read concepts of, without its weights."""
    if "concepts" not in about:
        return None
    phrases = [line.split(", ") for line in about["concepts"]]
    shape = DecoderConfig(**next(iter(about["decoders"].values())))
    return ConceptClassifier(shape.feature_size, phrases, Vocabulary(tuple(about["vocabulary"])), shape.concepts)


def open_start(folder: Path) -> Start:
    """Return the decoders of a bundle or of a finished run. Raises UsageError or BundleError when it is neither."""
    if (folder / "bundle.json").exists():
        bundle = read_bundle(folder)
        bundle.verify()
        decoder, vocabulary = load_decoder(bundle)
        classifier = load_classifier(bundle, decoder, vocabulary)
        about = bundle.description.get("provenance", {}) | bundle.description.get("metrics", {})
        decoders: dict[str, CaptionDecoder] = {decoder.config.cell: decoder}
    else:
        about, network = best_network(folder)
        classifier = network.classifier
        decoders, vocabulary = dict(network.each()), Vocabulary(tuple(about["vocabulary"]))
    head = None if classifier is None else classifier.head
    return Start(decoders, vocabulary, {name: about.get(name) for name in _HISTORY}, head)
