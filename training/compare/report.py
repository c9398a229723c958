"""The comparison as one HTML file with images: answer, table, curves, captions side by side, attention maps."""

import base64
import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from captioning import __version__
from captioning.errors import ImageError, UsageError
from captioning.model.captioner import Captioner
from captioning.model.decoder import AttentionDecoder
from captioning.model.encoder import PixelsToGrid
from captioning.model.pixels import Pixels, open_image
from captioning.model.vocabulary import START
from captioning.values import Caption, DecodeOptions
from training.compare.study import LSTM, SAME_WIDTH, Comparison, captioner_of, said_by
from training.evaluate.fit_calibration import expected_error, folded, judged

_COLOURS = {LSTM: "#3b6fb6", SAME_WIDTH: "#d9822b", "GRU, same budget": "#8a5a00", "plain LSTM": "#9db7db", "plain GRU": "#eac08f"}  # fmt: skip  # noqa: E501
_METRICS = {
    "cider": "CIDEr-D", "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "meteor": "METEOR",
    "rouge_l": "ROUGE-L", "distinct": "distinct",
}  # fmt: skip
_HABITS = {
    "words_used": "words used", "novel": "not in training set", "repeats": "say a word twice",
    "stock shirt": "“shirt”, times people's", "stock man in a": "“man in a”, times people's",
    "male misgendered": "men called women", "female misgendered": "women called men",
}  # fmt: skip
_TIMED = 256  # images
_MAPPED = 3  # images with attention maps
_KINDS = 4  # images each: well told, badly told, told differently


@dataclass(frozen=True)
class Shown:
    """An image in the report."""

    why: str
    image: str  # data: URL
    captions: dict[
        str, tuple[str, float, float | None]
    ]  # by decoder: text, confidence, CIDEr-D if there are references
    references: tuple[str, ...]


def write_report(found: Comparison, path: Path, show: Path | None = None) -> Path:
    """Write the report. With `show`, a folder, its images are shown and none of the corpus's."""
    models = {arm: captioner_of(found.trained[arm][0].run, found.data) for arm in (LSTM, SAME_WIDTH)}
    shown, grids, images = _from_folder(found, models, show) if show else _from_corpus(found, models)
    template = Environment(loader=PackageLoader("training", "templates"), autoescape=True).get_template("report.html")
    text = template.render(
        answer=found.answer,
        software=__version__,
        plan=found.plan,
        corpus=found.data.corpus,
        judged=len(found.judges.names),
        words=len(found.data.vocabulary),
        encoder=found.encoder,
        tuning=found.tuning,
        differences=found.differences,
        table=list(_table(found)),
        metrics=_METRICS,
        habits=_HABITS,
        habit_rows=[(arm, [mean(t.habits[h] for t in runs) for h in _HABITS]) for arm, runs in found.trained.items()],
        curves=_curves(found),
        spread=_spread(found),
        reliability=_reliability(found),
        shown=shown,
        maps=[_maps(models, grid, image) for grid, image in zip(grids[:_MAPPED], images, strict=False)],
        colours=_COLOURS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# -- figures and tables --


def _table(found: Comparison) -> Iterable[dict[str, Any]]:
    trained = [t for runs in found.trained.values() for t in runs]
    everywhere = [name for name in _METRICS if all(name in t.scores for t in trained)]  # METEOR may fail now and then
    for arm, runs in found.trained.items():
        yield {
            "arm": arm,
            "hidden": found.hidden[arm],
            "parameters": found.parameters[arm],
            "rate": runs[0].rate,
            "seeds": len(runs),
            "seconds": mean(t.seconds for t in runs),
            "milliseconds": _milliseconds(captioner_of(runs[0].run, found.data), found),
            "scores": {name: _spread_of([t.scores[name] for t in runs]) for name in everywhere},
        }


def _spread_of(values: Sequence[float]) -> tuple[float, float | None]:
    return mean(values), stdev(values) if len(values) > 1 else None


def _milliseconds(captioner: Captioner, found: Comparison) -> float:
    """Return the decoder's milliseconds a caption (batches of 32, beam 3, no encoder), the best of three."""
    names = found.judges.names[:_TIMED]
    grid = found.judges.features.get(names).float()
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            started = time.perf_counter()
            for part in torch.split(grid, 32):
                captioner.describe(part, DecodeOptions())
            best = min(best, time.perf_counter() - started)
    return 1000 * best / len(names)


def _curves(found: Comparison) -> str:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for arm, runs in found.trained.items():
        for i, run in enumerate(runs):
            epochs = [line["epoch"] for line in run.log]
            style: dict[str, Any] = {
                "color": _COLOURS[arm],
                "alpha": 0.75,
                "linewidth": 1.2,
                "label": arm if i == 0 else None,
            }
            left.plot(epochs, [line["loss"] for line in run.log], **style)
            right.plot(epochs, [line["cider"] for line in run.log], **style)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="epoch", ylabel="nats a word, smoothed", title="training loss")
    right.set(xlabel="epoch", ylabel="CIDEr-D, beam 3", title=f"{_watched(found)} val images, free-running")
    right.legend(fontsize=8)
    return _svg(figure)


def _watched(found: Comparison) -> int:
    return len(found.data.corpus.val[: found.plan.val_limit or None])


def _spread(found: Comparison) -> str:
    """Every training as a dot."""
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes = figure.subplots()
    arms = list(found.trained)
    for y, arm in enumerate(arms):
        values = [t.scores["cider"] for t in found.trained[arm]]
        axes.scatter(values, [y] * len(values), color=_COLOURS[arm], alpha=0.8)
        axes.scatter([mean(values)], [y], marker="|", s=300, color="black")
    axes.set_yticks(range(len(arms)), arms)
    axes.set(xlabel="CIDEr-D of each training; bar: mean", ylim=(len(arms) - 0.5, -0.5))
    return _svg(figure)


def _reliability(found: Comparison) -> str:
    """Reliability and risk-coverage of one LSTM and one GRU (El-Yaniv & Wiener 2010)."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for arm in (LSTM, SAME_WIDTH):
        run = found.trained[arm][0]
        said = said_by(run.run, found.data, found.judges)
        for (x, y, whose), line, what in zip(
            judged(said, found.data.corpus.captions), ("-", "--"), ("captions", "words"), strict=True
        ):
            sure = folded(x, y, whose)
            bins = np.array_split(np.argsort(sure, kind="stable"), min(10, len(sure)))
            label = f"{arm.partition(',')[0]}, {what} (error {expected_error(sure, y):.3f})"
            left.plot(
                [sure[b].mean() for b in bins],
                [y[b].mean() for b in bins],
                line,
                marker=".",
                color=_COLOURS[arm],
                label=label,
            )
            if what == "captions":
                order = np.argsort(-x)
                names = np.array(list(said))[order]
                kept = np.cumsum([run.ciders[n] for n in names]) / np.arange(1, len(names) + 1)
                start = len(names) // 20
                right.plot(
                    (np.arange(len(names)) + 1)[start:] / len(names), kept[start:], color=_COLOURS[arm], label=arm
                )
    left.set(xlabel="confidence", ylabel="share that was right", title="reliability, folds not fitted")
    left.legend(fontsize=7)
    right.set(xlabel="share of images kept, the surest first", ylabel="their mean CIDEr-D", title="risk and coverage")
    right.legend(fontsize=8)
    return _svg(figure)


# -- images --


def _from_corpus(
    found: Comparison, models: dict[str, Captioner]
) -> tuple[list[Shown], list[torch.Tensor], list[Pixels]]:
    first = {arm: found.trained[arm][0] for arm in models}
    names = found.judges.names
    both = {n: mean(t.ciders[n] for t in first.values()) for n in names}
    apart = {n: abs(first[LSTM].ciders[n] - first[SAME_WIDTH].ciders[n]) for n in names}
    ranked = sorted(names, key=lambda n: both[n])
    chosen = [("well told", n) for n in ranked[::-1][:_KINDS]] + [("badly told", n) for n in ranked[:_KINDS]]
    chosen += [("told differently", n) for n in sorted(names, key=lambda n: -apart[n])[:_KINDS]]
    some = [n for _, n in chosen]
    grids = list(found.judges.features.get(some).float().unsqueeze(1))
    said = {arm: _described(model, grids) for arm, model in models.items()}
    images = [open_image((found.data.corpus.images / n).read_bytes(), 224)[0] for n in some]
    shown = [
        Shown(
            why,
            _jpeg(images[i]),
            _told(said, i, {arm: t.ciders[n] for arm, t in first.items()}),
            found.data.corpus.captions[n],
        )
        for i, (why, n) in enumerate(chosen)
    ]
    return shown, grids, images


def _from_folder(
    found: Comparison, models: dict[str, Captioner], folder: Path
) -> tuple[list[Shown], list[torch.Tensor], list[Pixels]]:
    images = list(images_in(folder).values())
    encoder: PixelsToGrid = found.encoder.load()
    with torch.inference_mode():
        grids = [encoder(torch.from_numpy(image.copy()).unsqueeze(0)) for image in images]
    said = {arm: _described(model, grids) for arm, model in models.items()}
    shown = [Shown("", _jpeg(image), _told(said, i, {}), ()) for i, image in enumerate(images)]
    return shown, grids, images


def images_in(folder: Path) -> dict[str, Pixels]:
    """Open the images of a folder, by name; what isn't one is passed over. Raises UsageError when none is."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            found[path.name] = open_image(path.read_bytes(), 224)[0]
        except (OSError, ImageError):
            continue
    if not found:
        raise UsageError(f"--show {folder}: there is no image that can be opened.")
    return found


def _told(
    said: dict[str, list[Caption]], i: int, ciders: dict[str, float]
) -> dict[str, tuple[str, float, float | None]]:
    return {arm: (captions[i].text, captions[i].confidence, ciders.get(arm)) for arm, captions in said.items()}


def _described(model: Captioner, grids: list[torch.Tensor]) -> list[Caption]:
    with torch.inference_mode():
        return model.describe(torch.cat(grids), DecodeOptions())


def _maps(models: dict[str, Captioner], grid: torch.Tensor, image: Pixels) -> str:
    """Where each decoder looked for each word, over the image."""
    rows = []
    with torch.inference_mode():
        for arm, model in models.items():
            words = model.describe(grid, DecodeOptions())[0].text.split()[:12]
            ids = torch.tensor([[START, *model.vocabulary.encode(words[:-1])]])
            weights = cast("AttentionDecoder", model.decoder).attention(grid, ids)[0]  # (T, N)
            rows.append((arm, words, weights.numpy()))
    columns = max(len(words) for _, words, _ in rows)
    figure = Figure(figsize=(1.15 * columns, 1.45 * len(rows)), layout="constrained")
    all_axes = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (arm, words, looked) in zip(all_axes, rows, strict=True):
        for i, one in enumerate(axes):
            one.axis("off")
            if i < len(words):
                _overlay(one, image, looked[i])
                one.set_title(words[i], fontsize=9, color=_COLOURS[arm])
    return _png(figure)


def _overlay(axes: Any, image: Pixels, weights: NDArray[np.float32]) -> None:
    side = int(len(weights) ** 0.5)
    axes.imshow(image, extent=(0, side, side, 0))
    axes.imshow(
        weights.reshape(side, side), extent=(0, side, side, 0), cmap="inferno", alpha=0.55, interpolation="bicubic"
    )


def _svg(figure: Figure) -> str:
    return _data_url(lambda out: figure.savefig(out, format="svg", metadata={"Date": None}), "svg+xml")


def _png(figure: Figure) -> str:
    def save(out: io.BytesIO) -> None:
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=90)
        Image.open(raw).convert("RGB").save(out, "JPEG", quality=80)

    return _data_url(save, "jpeg")


def _jpeg(image: Pixels) -> str:
    return _data_url(lambda out: Image.fromarray(image).save(out, "JPEG", quality=80), "jpeg")


def _data_url(save: Callable[[io.BytesIO], object], kind: str) -> str:
    out = io.BytesIO()
    save(out)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
