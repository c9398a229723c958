"""A finished run, to a bundle: weights in int8, digests, calibration, provenance and a model card."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from torch import Tensor

from captioning import __version__
from captioning.atomic import replacing, write_text
from captioning.bundles import FORMAT, Bundle, file_digest, read_bundle
from captioning.errors import UsageError
from captioning.model.concepts import ConceptClassifier
from captioning.model.pixels import Preprocessing
from captioning.model.weights import save_weights
from captioning.values import Caption
from training.data.data_sets import DataFolder, open_data
from training.data.encoders import EncoderFile
from training.evaluate.fit_calibration import GradedCaptions, calibrate, grade, grade_words, graded
from training.evaluate.naming import Named, halves, named, read_naming
from training.evaluate.score_bundle import diversity_of, evaluate_bundle, evaluate_naming, int8_cider
from training.export.fit_to_images import MeanFeatures, fit_likeness, fit_presence
from training.export.int8_ranges import find_int8
from training.export.model_card import model_card
from training.fit.trained import best_network
from training.progress import Tick


def export_bundle(
    run: Path,
    encoder: EncoderFile,
    name: str,
    output: Path,
    *,
    cell: str | None = None,
    data: Sequence[DataFolder] = (),
    naming: Path | None = None,
    neutral_gender: float | None = None,
    demand: float | None = None,
    absent: float | None = None,
    cache: Path = Path("cache"),
    tick: Tick = lambda done, total: None,
) -> Bundle:
    """Write `output/name` and `output/encoders/<digest>.safetensors`, which other bundles in `output` share.

    With `data` the finished bundle is scored and calibrated on their val images, as the product computes them, and gets
    what its training images tell: ranges for int8, and what marks unlike images. `naming` is a folder of labelled
    images, see `training.evaluate.naming`; half of them are for the calibration too. `neutral_gender` is the share from
    which a gender is named, see `captioning.model.gender`; `demand` is the probability from which a concept must be
    named, see `captioning.model.demand`; `absent` that below which people or dogs are not, see
    `captioning.model.presence`. Raises UsageError when the run is not finished, was trained on another encoder, or has
    several decoders and `cell` does not name one.
    """
    about, network = best_network(run)
    cell = _chosen_cell(run, list(about["decoders"]), cell)
    if about["encoder"]["digest"] != encoder.digest:
        raise UsageError(f"{run} was trained on encoder {about['encoder']['digest'][:16]}, not {encoder.digest[:16]}.")
    opened = open_data(data, cache) if data else None  # fails before anything is written
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "decoder.safetensors", mode=0o644) as unfinished:
        save_weights(dict(network.each())[cell].state_dict(), unfinished)
    _copy_encoder(encoder, output / "encoders")
    description = _description(name, about, cell, encoder, folder)
    if "concepts" in about:
        description["concepts"] = about["concepts"]
        classifier = cast("ConceptClassifier", network.classifier).state_dict()
        description["weights"]["classifier"] = _save_shared(classifier, output / "encoders")
    options = {"neutral_gender": neutral_gender, "demand": demand, "absent": absent}
    description |= {name: value for name, value in options.items() if value is not None}
    if opened is not None:
        means = MeanFeatures(encoder, opened[0], cache, tick)
        likeness = fit_likeness(means).state_dict()
        description["likeness"] = len(likeness["components"])
        for part, weights in (("likeness", likeness), ("presence", fit_presence(means, opened[1]).state_dict())):
            description["weights"][part] = _save_shared(weights, output / "encoders")
    _write_description(folder, description)
    if data:  # after the export: the int8 weights are scored, not the trained ones
        return calibrate_bundle(folder, data, cache, tick, naming=naming)
    return read_bundle(folder)


def calibrate_bundle(
    folder: Path,
    data: Sequence[DataFolder],
    cache: Path,
    tick: Tick = lambda done, total: None,
    *,
    naming: Path | None = None,
) -> Bundle:
    """Score a bundle on val images, as the product does; write scores, diversity, calibration, int8 ranges and card.

    The model gets a new digest: its captions stay the same, its confidences do not.
    """
    bundle, (corpus, sets) = read_bundle(folder), open_data(data, cache)
    scores, captions = evaluate_bundle(bundle, corpus, sets, cache=cache, tick=tick)
    metrics: dict[str, Any] = {"val": scores, "diversity": diversity_of(captions, corpus), "digest": corpus.digest}
    kinds = {part.name: grade({n: captions[n] for n in part.corpus.val}, corpus.captions) for part in sets}
    held_out = {}
    if naming is not None:
        metrics["naming"], of_labels = evaluate_naming(bundle, naming, cache=cache, tick=tick)
        fitted, reported = halves(read_naming(naming))
        kinds["naming"], held_out["naming"] = _graded_names(of_labels, fitted), _graded_names(of_labels, reported)
    int8 = find_int8(bundle, corpus, cache, tick)
    with_int8 = replace(bundle, description=bundle.description | {"int8": int8})
    cider = int8_cider(with_int8, corpus, sets, cache, tick)
    metrics["int8"] = {"cider": cider, "cider_loss": round(scores["cider"] - cider, 4)}
    description = with_int8.description | {
        "metrics": metrics,
        "calibration": calibrate(kinds, grade_words(captions, corpus.captions), held_out),
    }
    _write_description(folder, description)
    return read_bundle(folder)


def _graded_names(captions: Mapping[str, Caption], labels: Mapping[str, Named]) -> GradedCaptions:
    of_labels = {name: captions[name] for name in labels}
    return graded(of_labels, named({name: caption.text for name, caption in of_labels.items()}, labels))


def _chosen_cell(run: Path, cells: list[str], cell: str | None) -> str:
    chosen = cell or (cells[0] if len(cells) == 1 else "")
    if chosen not in cells:
        raise UsageError(f"{run} has the decoders {' and '.join(cells)}: choose one with --cell.")
    return chosen


def _copy_encoder(encoder: EncoderFile, folder: Path) -> None:
    """Copy the encoder's weights, unless they are there already; they may be the file that was given."""
    shared = folder / f"{encoder.digest[:16]}.safetensors"
    folder.mkdir(exist_ok=True)
    if not shared.exists() or file_digest(shared) != encoder.digest:
        with replacing(shared) as unfinished:
            shutil.copyfile(encoder.weights, unfinished)


def _save_shared(weights: Mapping[str, Tensor], folder: Path) -> str:
    """Write weights that bundles share, under their digest, which is returned."""
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=folder) as temporary:
        unfinished = Path(temporary) / "weights"
        save_weights(weights, unfinished)
        digest = file_digest(unfinished)
        unfinished.replace(folder / f"{digest[:16]}.safetensors")
    return digest


def _description(name: str, about: dict[str, Any], cell: str, encoder: EncoderFile, folder: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": name,
        "decoder": about["decoders"][cell],
        "encoder": {"stride": encoder.about["stride"]},
        "weights": {"decoder": file_digest(folder / "decoder.safetensors"), "encoder": encoder.digest},
        # This version's, also for a run that learned from images as an earlier version prepared them: plain sRGB images
        # have the same pixels, which is nearly all that it saw, and the others come closer to them.
        "preprocessing": asdict(Preprocessing()),
        "metrics": {"val": about["val"][cell]},
        "provenance": {
            "software": __version__,
            "config": about["config"],
            "encoder": {key: value for key, value in about["encoder"].items() if key != "digest"},
            "images": about["images"],
            "best_epoch": about["best_epoch"],
            "texts": about.get("texts", 0),
            "start": about.get("start"),
        },
        "vocabulary": about["vocabulary"],
    }


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    write_text(folder / "CARD.md", model_card(description))
    write_text(folder / "bundle.json", json.dumps(description, ensure_ascii=False, indent=None) + "\n")
