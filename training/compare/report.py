"""The comparison as one HTML file: answer, tables, figures, captions side by side, attention maps."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from jinja2 import Environment, PackageLoader

from captioning import __version__
from captioning.atomic import write_text
from captioning.errors import ImageError, UsageError
from captioning.model.captioner import Captioner
from captioning.model.encoder import PixelsToGrid
from captioning.model.pixels import Pixels, Preprocessing, open_image
from captioning.values import Caption, DecodeOptions
from training.compare import figures
from training.compare.executor import captioner_of
from training.compare.plan import LSTM, SAME_WIDTH
from training.compare.study import Comparison

_METRICS = {
    "cider": "CIDEr-D", "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "meteor": "METEOR",
    "rouge_l": "ROUGE-L", "distinct": "distinct",
}  # fmt: skip
_DIVERSITY = {
    "words_used": "words used", "novel": "not in training set", "repeats": "repeat a word",
    "stock shirt": "“shirt”, relative to people", "stock man in a": "“man in a”, relative to people",
    "male misgendered": "men called women", "female misgendered": "women called men",
}  # fmt: skip
_TIMED_IMAGES = 256
_MAPPED_IMAGES = 3  # images with attention maps
_EXAMPLES = 4  # images of each group: high, low and most different CIDEr-D


@dataclass(frozen=True)
class Example:
    """An image in the report, with captions side by side."""

    note: str  # why it was chosen
    image: str  # a data URL
    captions: dict[str, tuple[str, float | None]]  # by arm: text, and CIDEr-D if the image has references
    references: tuple[str, ...]


def write_report(comparison: Comparison, path: Path, show: Path | None = None) -> Path:
    """Write the report. With `show`, a folder, its images are shown instead of the corpus's."""
    models = {arm: captioner_of(comparison.runs[arm][0].folder, comparison.data) for arm in (LSTM, SAME_WIDTH)}
    found = _examples_in(show, comparison, models) if show else _corpus_examples(comparison, models)
    examples, grids, images = found
    template = Environment(loader=PackageLoader("training", "templates"), autoescape=True).get_template("report.html")
    text = template.render(
        answer=comparison.answer,
        software=__version__,
        plan=comparison.plan,
        corpus=comparison.data.corpus,
        evaluated=len(comparison.evaluation_set.names),
        words=len(comparison.data.vocabulary),
        encoder=comparison.encoder,
        tuning=comparison.tuning,
        differences=comparison.differences,
        table=list(_table(comparison)),
        metrics=_METRICS,
        diversity=_DIVERSITY,
        diversity_rows=[
            (arm, [mean(run.diversity[key] for run in runs) for key in _DIVERSITY])
            for arm, runs in comparison.runs.items()
        ],
        curves=figures.curves(comparison),
        spread=figures.spread(comparison),
        reliability=figures.reliability(comparison),
        examples=examples,
        maps=[
            figures.attention_maps(models, grid, image)
            for grid, image in zip(grids[:_MAPPED_IMAGES], images, strict=False)
        ],
        colours=figures.COLOURS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


# -- tables --


def _table(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield a row for each arm, with the scores that all runs have: METEOR may be missing from some."""
    all_runs = [run for runs in comparison.runs.values() for run in runs]
    common = [name for name in _METRICS if all(name in run.scores for run in all_runs)]
    for arm, runs in comparison.runs.items():
        yield {
            "arm": arm,
            "hidden": comparison.hidden[arm],
            "parameters": comparison.parameters[arm],
            "rate": runs[0].rate,
            "seeds": len(runs),
            "seconds": mean(run.seconds for run in runs),
            "milliseconds": _milliseconds(captioner_of(runs[0].folder, comparison.data), comparison),
            "scores": {name: _mean_and_deviation([run.scores[name] for run in runs]) for name in common},
        }


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    return mean(values), stdev(values) if len(values) > 1 else None


def _milliseconds(captioner: Captioner, comparison: Comparison) -> float:
    """Return the decoder's milliseconds per caption (batches of 32, beam size 3, no encoder), the best of three."""
    names = comparison.evaluation_set.names[:_TIMED_IMAGES]
    grid = comparison.evaluation_set.images.get(names).float()
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            started = time.perf_counter()
            for batch in torch.split(grid, 32):
                captioner.caption_features(batch, DecodeOptions())
            best = min(best, time.perf_counter() - started)
    return 1000 * best / len(names)


# -- examples --

Examples = tuple[list[Example], list[torch.Tensor], list[Pixels]]
"""Examples, with the grid features (1, N, C) and the pixels of each."""


def _corpus_examples(comparison: Comparison, models: Mapping[str, Captioner]) -> Examples:
    ciders = {arm: comparison.runs[arm][0].ciders for arm in models}
    chosen = _choose(comparison.evaluation_set.names, ciders)
    names = [name for _, name in chosen]
    grids = list(comparison.evaluation_set.images.get(names).float().unsqueeze(1))
    corpus, size = comparison.data.corpus, Preprocessing().size
    images = [open_image((corpus.image_folder / name).read_bytes(), size)[0] for name in names]
    captions = _caption_all(models, grids)
    examples = [
        Example(
            note,
            figures.jpeg(images[i]),
            {arm: (captions[arm][i].text, ciders[arm][name]) for arm in models},
            corpus.captions[name],
        )
        for i, (note, name) in enumerate(chosen)
    ]
    return examples, grids, images


def _choose(names: Sequence[str], ciders: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str]]:
    """Return images to show, each with a note why."""
    average = {name: mean(of_arm[name] for of_arm in ciders.values()) for name in names}
    apart = {name: abs(ciders[LSTM][name] - ciders[SAME_WIDTH][name]) for name in names}
    ranked = sorted(names, key=lambda name: average[name])
    chosen = [("high CIDEr-D", name) for name in ranked[::-1][:_EXAMPLES]]
    chosen += [("low CIDEr-D", name) for name in ranked[:_EXAMPLES]]
    return chosen + [("different CIDEr-D", name) for name in sorted(names, key=lambda name: -apart[name])[:_EXAMPLES]]


def _examples_in(folder: Path, comparison: Comparison, models: Mapping[str, Captioner]) -> Examples:
    images = list(images_in(folder).values())
    encoder: PixelsToGrid = comparison.encoder.load()
    with torch.inference_mode():
        grids = [encoder(torch.from_numpy(image.copy()).unsqueeze(0)) for image in images]
    captions = _caption_all(models, grids)
    examples = [
        Example("", figures.jpeg(image), {arm: (captions[arm][i].text, None) for arm in models}, ())
        for i, image in enumerate(images)
    ]
    return examples, grids, images


def images_in(folder: Path) -> dict[str, Pixels]:
    """Return the images of a folder by name, without files that are not images. Raises UsageError if there is none."""
    images = {}
    size = Preprocessing().size
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            images[path.name] = open_image(path.read_bytes(), size)[0]
        except (OSError, ImageError):
            continue
    if not images:
        raise UsageError(f"--show {folder}: no file in it is an image that can be opened.")
    return images


def _caption_all(models: Mapping[str, Captioner], grids: Sequence[torch.Tensor]) -> dict[str, list[Caption]]:
    grid = torch.cat(list(grids))
    with torch.inference_mode():
        return {arm: model.caption_features(grid, DecodeOptions()) for arm, model in models.items()}
