"""What training has made: the decoders of a finished run or of a bundle, their words, and what is known of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from captioning.bundles import read_bundle
from captioning.errors import UsageError
from captioning.model.captioner import load_decoder
from captioning.model.decoder import CaptionDecoder, DecoderConfig, make_decoder
from captioning.model.vocabulary import Vocabulary
from training.fit.checkpoints import BEST
from training.fit.network import CaptioningNetwork

ABOUT = "run.json"
_KEPT = ("config", "best_epoch", "val", "images", "start")


@dataclass(frozen=True)
class Start:
    """Trained decoders that a run goes on with."""

    decoders: dict[str, CaptionDecoder]  # by cell
    vocabulary: Vocabulary
    about: dict[str, Any]  # how they were trained, for the model card


def best_network(run: Path) -> tuple[dict[str, Any], CaptioningNetwork]:
    """Return what is known of a finished run, and its decoders, not training. Raises UsageError for no such run."""
    if not (run / ABOUT).exists():
        raise UsageError(f"{run} holds no finished run: `training train --run {run} --resume` finishes it.")
    about: dict[str, Any] = json.loads((run / ABOUT).read_text())
    shapes = {cell: DecoderConfig(**shape) for cell, shape in about["decoders"].items()}
    network = CaptioningNetwork({cell: make_decoder(shape) for cell, shape in shapes.items()})
    weights = {n: t for n, t in load_file(run / BEST).items() if n.startswith("decoders.")}
    network.load_state_dict(weights)
    return about, network.eval()


def open_start(folder: Path) -> Start:
    """Return the decoders of a bundle, or of a finished run. Raises UsageError or BundleError when it is neither."""
    if (folder / "bundle.json").exists():
        bundle = read_bundle(folder)
        bundle.verify()
        decoder, vocabulary = load_decoder(bundle)
        known = bundle.description.get("provenance", {}) | bundle.description.get("metrics", {})
        return Start({decoder.config.cell: decoder}, vocabulary, {name: known.get(name) for name in _KEPT})
    known, network = best_network(folder)
    about = {name: known.get(name) for name in _KEPT}
    return Start(dict(network.each()), Vocabulary(tuple(known["vocabulary"])), about)
