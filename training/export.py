"""A finished run to a bundle: weights in int8, digests, provenance, and a model card for people."""

import json
import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from captioning import __version__
from captioning.bundles import FORMAT, Bundle, file_digest, read_bundle
from captioning.errors import UsageError
from captioning.model.pixels import Preprocessing
from captioning.model.weights import save_weights
from training.encoders import EncoderFile
from training.loop import BEST
from training.runs import ABOUT, evaluate_bundle

_DECODER = "decoder."


def export_bundle(run: Path, encoder: EncoderFile, name: str, output: Path, data: Path | None, cache: Path) -> Bundle:
    """Write `output/name` and, shared with its neighbours, `output/encoders/<digest>.safetensors`.

    Raises UsageError when the run isn't finished or was trained on another encoder.
    """
    if not (run / ABOUT).exists():
        raise UsageError(f"{run} holds no finished run: `training train --run {run} --resume` finishes it.")
    about: dict[str, Any] = json.loads((run / ABOUT).read_text())
    if about["encoder"]["digest"] != encoder.digest:
        raise UsageError(f"{run} was trained on encoder {about['encoder']['digest'][:16]}, not {encoder.digest[:16]}.")
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n.removeprefix(_DECODER): t for n, t in load_file(run / BEST).items() if n.startswith(_DECODER)}
    save_weights(weights, folder / "decoder.safetensors")
    shared = output / "encoders" / f"{encoder.digest[:16]}.safetensors"
    shared.parent.mkdir(exist_ok=True)
    shutil.copyfile(encoder.weights, shared)
    description = _description(name, about, encoder, folder)
    _write(folder, description)
    if data is not None:  # score what is shipped, not what was trained
        description["metrics"]["val"] = evaluate_bundle(read_bundle(folder), data, cache)
        _write(folder, description)
    return read_bundle(folder)


def _description(name: str, about: dict[str, Any], encoder: EncoderFile, folder: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": name,
        "decoder": about["decoder"],
        "encoder": {"stride": encoder.about["stride"]},
        "weights": {"decoder": file_digest(folder / "decoder.safetensors"), "encoder": encoder.digest},
        "preprocessing": asdict(Preprocessing()),
        "metrics": {"val": about["val"]},
        "provenance": {
            "software": __version__,
            "config": about["config"],
            "encoder": encoder.about,
            "pictures": about["pictures"],
            "best_epoch": about["best_epoch"],
        },
        "vocabulary": about["vocabulary"],
    }


def _write(folder: Path, description: dict[str, Any]) -> None:
    (folder / "bundle.json").write_text(json.dumps(description, ensure_ascii=False, indent=None) + "\n")
    (folder / "CARD.md").write_text(_card(description))


def _card(description: dict[str, Any]) -> str:
    val = description["metrics"]["val"]
    pictures = description["provenance"]["pictures"]
    origin = description["provenance"]["encoder"]
    cell = {"lstm": "an LSTM", "gru": "a GRU"}[description["decoder"]["cell"]]
    tuned = " Then stage 5 was fine-tuned with the caption loss on the training pictures." if "tuned" in origin else ""
    stride = f" The stride of a stage sits in its {origin['stride']} convolution."
    encoder = origin.get("origin", "A ResNet50") + "." + tuned + stride
    return f"""# {description["name"]}

A one-sentence English captioner for photographs: a ResNet50 encoder (7 x 7 grid of 2048 features) and
{cell} decoder with multi-head attention over the grid.

| val, {pictures["val"]} pictures, beam 3 | |
|---|---|
| CIDEr-D | {val["cider"]:.3f} |
| BLEU-1 / 2 / 3 / 4 | {val["bleu1"]:.3f} / {val["bleu2"]:.3f} / {val["bleu3"]:.3f} / {val["bleu4"]:.3f} |
| ROUGE-L | {val["rouge_l"]:.3f} |
| distinct captions | {val["distinct"]} |

Scored free-running against five references a picture with pycocoevalcap (CIDEr-D, ROUGE-L) and NLTK (corpus
BLEU). The epoch was chosen on these same pictures, so expect a little less on new ones. For scale: a person's
caption scored against the other four of Flickr8k's test pictures reaches CIDEr 0.82 and BLEU-4 0.21.

**Data.** Flickr8k (M. Hodosh, P. Young, J. Hockenmaier 2013, "Framing Image Description as a Ranking Task: Data,
Models and Evaluation Metrics", JAIR 47, 853-899): {pictures["train"]} training pictures with five captions each.
The corpus is given for non-commercial research and education; the photographs belong to the people who uploaded
them to Flickr. None of them is in this bundle. Whoever uses the model commercially must judge for themselves
what these terms mean for weights.

**Encoder.** {textwrap.fill(encoder[0].upper() + encoder[1:], 110)}
ImageNet's own terms are non-commercial research.

**Weights.** int8 with one float scale an output row; vectors in float32. Digests are in `bundle.json`.

**Limits.** It knows the world of Flickr8k: people, dogs, sport, the outdoors, in daylight, around 2008. Of
anything else (documents, drawings, food, interiors, X-rays) it says something about people and dogs, often
with confidence. It names colours and counts unreliably, guesses at gender from little, and inherits whatever
its annotators assumed. Not for decisions about people. {len(description["vocabulary"]) - 4} words.
"""
