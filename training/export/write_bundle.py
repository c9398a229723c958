"""A finished run, to a bundle: weights in int8, digests, calibration, provenance and a model card."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from captioning import __version__
from captioning.atomic import replacing, write_text
from captioning.bundles import FORMAT, Bundle, file_digest, read_bundle
from captioning.errors import UsageError
from captioning.model.pixels import Preprocessing
from captioning.model.weights import save_weights
from training.data.data_sets import DataFolder, open_data
from training.data.encoders import EncoderFile
from training.evaluate.fit_calibration import calibrate
from training.evaluate.score_bundle import diversity_of, evaluate_bundle, evaluate_naming, int8_cider
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
    cache: Path = Path("cache"),
    tick: Tick = lambda done, total: None,
) -> Bundle:
    """Write `output/name` and `output/encoders/<digest>.safetensors`, which other bundles in `output` share.

    With `data` the finished bundle is scored and calibrated on their val images, as the product computes them, and gets
    ranges for int8, found on their training images. `naming` is a folder of labelled images, see
    `training.evaluate.naming`. `neutral_gender` is the share from which a gender is named, see
    `captioning.model.gender`. Raises UsageError when the run is not finished, was trained on another encoder, or has
    several decoders and `cell` does not name one.
    """
    about, network = best_network(run)
    cell = _chosen_cell(run, list(about["decoders"]), cell)
    if about["encoder"]["digest"] != encoder.digest:
        raise UsageError(f"{run} was trained on encoder {about['encoder']['digest'][:16]}, not {encoder.digest[:16]}.")
    if data:
        open_data(data, cache)  # fail before anything is written
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "decoder.safetensors", mode=0o644) as unfinished:
        save_weights(dict(network.each())[cell].state_dict(), unfinished)
    _copy_encoder(encoder, output / "encoders")
    description = _description(name, about, cell, encoder, folder)
    if neutral_gender is not None:
        description["neutral_gender"] = neutral_gender
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
    if naming is not None:
        metrics["naming"] = evaluate_naming(bundle, naming, cache=cache, tick=tick)[0]
    int8 = find_int8(bundle, corpus, cache, tick)
    with_int8 = replace(bundle, description=bundle.description | {"int8": int8})
    cider = int8_cider(with_int8, corpus, sets, cache, tick)
    metrics["int8"] = {"cider": cider, "cider_loss": round(scores["cider"] - cider, 4)}
    description = with_int8.description | {
        "metrics": metrics,
        "calibration": calibrate(captions, corpus.captions),
    }
    _write_description(folder, description)
    return read_bundle(folder)


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
