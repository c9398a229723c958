"""A finished run to a bundle: weights in int8, digests, calibration, provenance, and a model card for people."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioning import __version__
from captioning.bundles import FORMAT, Bundle, file_digest, read_bundle
from captioning.errors import UsageError
from captioning.model.pixels import Preprocessing
from captioning.model.weights import save_weights
from training.data.encoders import EncoderFile
from training.evaluate.fit_calibration import calibrate
from training.evaluate.score_bundle import Tick, evaluate_bundle, habits_of
from training.export.model_card import card_of
from training.fit.run_dir import write_text_atomic
from training.fit.train import open_corpus
from training.fit.trained import best_network


def export_bundle(
    run: Path,
    encoder: EncoderFile,
    name: str,
    output: Path,
    *,
    cell: str | None = None,
    data: Path | None = None,
    cache: Path = Path("cache"),
    tick: Tick = lambda done, of: None,
) -> Bundle:
    """Write `output/name` and, shared with its neighbours, `output/encoders/<digest>.safetensors`.

    With `data` the bundle as written is scored and calibrated on the corpus's val images, by the product's own
    path. Raises UsageError when the run isn't finished, was trained on another encoder, or holds several decoders
    and `cell` doesn't say which.
    """
    about, network = best_network(run)
    cells = list(about["decoders"])
    chosen = cell or (cells[0] if len(cells) == 1 else "")
    if chosen not in cells:
        raise UsageError(f"{run} holds the decoders {' and '.join(cells)}: say which with --cell.")
    if about["encoder"]["digest"] != encoder.digest:
        raise UsageError(f"{run} was trained on encoder {about['encoder']['digest'][:16]}, not {encoder.digest[:16]}.")
    if data is not None:
        open_corpus(data, cache)  # better now than when half a bundle is written
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(dict(network.each())[chosen].state_dict(), folder / "decoder.safetensors")
    shared = output / "encoders" / f"{encoder.digest[:16]}.safetensors"
    shared.parent.mkdir(exist_ok=True)
    if not shared.exists() or file_digest(shared) != encoder.digest:  # it may be the very file
        unfinished = shared.with_suffix(".part")
        shutil.copyfile(encoder.weights, unfinished)
        unfinished.replace(shared)
    description = _description(name, about, chosen, encoder, folder)
    _write(folder, description)
    if data is not None:  # score what is shipped, not what was trained
        return calibrate_bundle(folder, data, cache, tick)
    return read_bundle(folder)


def calibrate_bundle(folder: Path, data: Path, cache: Path, tick: Tick = lambda done, of: None) -> Bundle:
    """Score a bundle on a corpus's val images by the product's own path, and write scores, habits, curves and card.

    The model gets a new digest: what it says stays the same, how sure it is of it doesn't.
    """
    bundle, corpus = read_bundle(folder), open_corpus(data, cache)
    scores, said = evaluate_bundle(bundle, corpus, tick=tick)
    description = bundle.description | {
        "metrics": {"val": scores, "habits": habits_of(said, corpus), "digest": corpus.digest},
        "calibration": calibrate(said, corpus.captions),
    }
    _write(folder, description)
    return read_bundle(folder)


def _description(name: str, about: dict[str, Any], cell: str, encoder: EncoderFile, folder: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": name,
        "decoder": about["decoders"][cell],
        "encoder": {"stride": encoder.about["stride"]},
        "weights": {"decoder": file_digest(folder / "decoder.safetensors"), "encoder": encoder.digest},
        "preprocessing": asdict(Preprocessing()),
        "metrics": {"val": about["val"][cell]},
        "provenance": {
            "software": __version__,
            "config": about["config"],
            "encoder": {key: value for key, value in about["encoder"].items() if key != "digest"},
            "images": about["images"],
            "best_epoch": about["best_epoch"],
            "start": about.get("start"),
        },
        "vocabulary": about["vocabulary"],
    }


def _write(folder: Path, description: dict[str, Any]) -> None:
    (folder / "CARD.md").write_text(card_of(description))
    write_text_atomic(folder / "bundle.json", json.dumps(description, ensure_ascii=False, indent=None) + "\n")
