"""Draw how well the confidences of models hold for each kind of images, from what their bundles say.

python -m scripts.reliability_plot OUT.svg MODEL...
"""

import sys
from pathlib import Path
from typing import Any

from captioning.bundles import find_bundles, named
from captioning.settings import read_settings
from training.drawing import new_figure

COLOURS = ("#3b6fb6", "#d9822b", "#3d8f5f", "#8a3d8f")


def main() -> None:
    """Write the plot, one panel for each model."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    out, models = Path(sys.argv[1]), sys.argv[2:]
    bundles = find_bundles(read_settings().bundle_folders)
    figure = new_figure(5 * len(models), 4.6)
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        _draw(axes, model, named(model, bundles).description["calibration"])
    figure.savefig(out, metadata={"Date": None})


def _draw(axes: Any, model: str, calibration: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    kinds = calibration["kinds"] | {f"{name}, other half": found for name, found in calibration["held_out"].items()}
    for colour, (name, found) in zip(COLOURS, kinds.items(), strict=False):
        _, confidence, correct = zip(*found["bins"], strict=True)
        label = f"{name}: error {found['error']:.3f}, Brier {found['brier']:.3f}, {found['images']} images"
        axes.plot(confidence, correct, marker=".", color=colour, label=label)
    axes.set(title=model, xlabel="confidence", ylabel="share of captions that are right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=7, loc="upper left")


if __name__ == "__main__":
    main()
