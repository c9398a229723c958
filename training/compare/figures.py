"""The figures of the report, as data URLs: curves, spread over seeds, reliability, attention maps."""

import base64
import io
from collections.abc import Callable, Mapping
from statistics import mean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from captioning.model.captioner import Captioner
from captioning.model.decoder import AttentionDecoder
from captioning.model.pixels import Pixels
from captioning.model.vocabulary import START
from captioning.values import DecodeOptions
from training.compare.executor import FinishedRun, captions_of_run
from training.compare.plan import GRU_CONCEPTS, LSTM, LSTM_CONCEPTS, PLAIN_GRU, PLAIN_LSTM, SAME_BUDGET, SAME_WIDTH
from training.compare.study import Comparison
from training.drawing import new_figure
from training.evaluate.fit_calibration import (
    Floats,
    cross_validated,
    cross_validated_captions,
    expected_calibration_error,
    grade,
    grade_words,
    reliability_bins,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    LSTM: "#3b6fb6",
    SAME_WIDTH: "#d9822b",
    SAME_BUDGET: "#8a5a00",
    PLAIN_LSTM: "#9db7db",
    PLAIN_GRU: "#eac08f",
    LSTM_CONCEPTS: "#1d3f6e",
    GRU_CONCEPTS: "#b3430f",
}
_MAPPED_WORDS = 12  # words of a caption that get an attention map
_HIDDEN_SHARE = 20  # a twentieth of the images, where the risk-coverage curve is mostly noise


def curves(comparison: Comparison) -> str:
    """Draw training loss and val CIDEr-D by epoch, a line for each run."""
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    for arm, runs in comparison.runs.items():
        for i, run in enumerate(runs):
            epochs = [line["epoch"] for line in run.log]
            label = arm if i == 0 else None
            style: dict[str, Any] = {"color": COLOURS[arm], "alpha": 0.75, "linewidth": 1.2, "label": label}
            left.plot(epochs, [line["loss"] for line in run.log], **style)
            right.plot(epochs, [line["cider"] for line in run.log], **style)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    images = len(comparison.data.corpus.val[: comparison.plan.val_limit or None])
    left.set(xlabel="epoch", ylabel="nats per word, label smoothing", title="training loss")
    right.set(xlabel="epoch", ylabel="CIDEr-D, beam size 3", title=f"{images} val images")
    right.legend(fontsize=8)
    return _svg(figure)


def spread(comparison: Comparison) -> str:
    """Draw the CIDEr-D of every run as a dot."""
    figure = new_figure(7, 2.2)
    axes = figure.subplots()
    arms = list(comparison.runs)
    for y, arm in enumerate(arms):
        ciders = [run.scores["cider"] for run in comparison.runs[arm]]
        axes.scatter(ciders, [y] * len(ciders), color=COLOURS[arm], alpha=0.8)
        axes.scatter([mean(ciders)], [y], marker="|", s=300, color="black")
    axes.set_yticks(range(len(arms)), arms)
    axes.set(xlabel="CIDEr-D of each run; bar: mean", ylim=(len(arms) - 0.5, -0.5))
    return _svg(figure)


def reliability(comparison: Comparison) -> str:
    """Draw reliability and risk-coverage (El-Yaniv & Wiener 2010) of one LSTM and one GRU."""
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for arm in (LSTM, SAME_WIDTH):
        run = comparison.runs[arm][0]
        captions = captions_of_run(run.folder, comparison.data, comparison.evaluation_set)
        references = comparison.data.corpus.captions
        of_captions, of_words = grade(captions, references), grade_words(captions, references)
        confidence = cross_validated_captions({arm: of_captions})[arm]
        _plot_reliability(left, arm, "captions", "-", confidence, of_captions.correct)
        _plot_reliability(left, arm, "words", "--", cross_validated(of_words), of_words.correct)
        _plot_coverage(right, arm, run, list(captions), confidence)
    left.set(xlabel="confidence", ylabel="share that is correct", title="reliability, cross-validated")
    left.legend(fontsize=7)
    right.set(xlabel="share of images kept, most confident first", ylabel="mean CIDEr-D", title="risk and coverage")
    right.legend(fontsize=8)
    return _svg(figure)


def _plot_reliability(axes: Any, arm: str, what: str, line: str, confidence: Floats, correct: Floats) -> None:
    bins = reliability_bins(confidence, correct)
    error = expected_calibration_error(confidence, correct)
    axes.plot(
        [b.confidence for b in bins],
        [b.correct for b in bins],
        line,
        marker=".",
        color=COLOURS[arm],
        label=f"{arm.partition(',')[0]}, {what} (error {error:.3f})",
    )


def _plot_coverage(axes: Any, arm: str, run: FinishedRun, names: list[str], confidence: Floats) -> None:
    ranked = np.array(names)[np.argsort(-confidence, kind="stable")]
    kept = np.cumsum([run.ciders[name] for name in ranked]) / np.arange(1, len(ranked) + 1)
    start = len(ranked) // _HIDDEN_SHARE
    axes.plot((np.arange(len(ranked)) + 1)[start:] / len(ranked), kept[start:], color=COLOURS[arm], label=arm)


def attention_maps(models: Mapping[str, Captioner], grid: torch.Tensor, image: Pixels) -> str:
    """Draw the attention of each decoder for each word of its caption, over the image."""
    rows = []
    with torch.inference_mode():
        for arm, model in models.items():
            words = model.caption_features(grid, DecodeOptions())[0].text.split()[:_MAPPED_WORDS]
            ids = torch.tensor([[START, *model.vocabulary.encode(words[:-1])]])
            weights = cast("AttentionDecoder", model.decoder).attention(grid, ids)[0]  # (T, N)
            rows.append((arm, words, weights.numpy()))
    columns = max(len(words) for _, words, _ in rows)
    figure = new_figure(1.15 * columns, 1.45 * len(rows))
    for row, (arm, words, attention) in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for i, axes in enumerate(row):
            axes.axis("off")
            if i < len(words):
                _overlay(axes, image, attention[i])
                axes.set_title(words[i], fontsize=9, color=COLOURS[arm])
    return _rasterized(figure)


def _overlay(axes: Any, image: Pixels, weights: NDArray[np.float32]) -> None:
    side = int(len(weights) ** 0.5)
    extent = (0, side, side, 0)
    axes.imshow(image, extent=extent)
    axes.imshow(weights.reshape(side, side), extent=extent, cmap="inferno", alpha=0.55, interpolation="bicubic")


def jpeg(image: Pixels) -> str:
    """Return an image as a data URL."""
    return _data_url(lambda out: Image.fromarray(image).save(out, "JPEG", quality=80), "jpeg")


def _svg(figure: "Figure") -> str:
    return _data_url(lambda out: figure.savefig(out, format="svg", metadata={"Date": None}), "svg+xml")


def _rasterized(figure: "Figure") -> str:
    """Return a figure as a JPEG: with images in it, an SVG would be large."""

    def save(out: io.BytesIO) -> None:
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=90)
        Image.open(png).convert("RGB").save(out, "JPEG", quality=80)

    return _data_url(save, "jpeg")


def _data_url(save: Callable[[io.BytesIO], object], subtype: str) -> str:
    out = io.BytesIO()
    save(out)
    return f"data:image/{subtype};base64,{base64.b64encode(out.getvalue()).decode()}"
