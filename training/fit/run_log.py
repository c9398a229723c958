"""What a run writes for people: log.csv, curves.png, samples.md and events for TensorBoard."""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from training.data.corpus import Corpus
from training.drawing import new_figure

LOG, TABLE, SAMPLES, CURVES = "log.jsonl", "log.csv", "samples.md", "curves.png"
_SHOWN = 12  # val images in the samples
_DRAW_SECONDS = 30.0  # between two drawings of the curves; one takes half a second

LogEntry = Mapping[str, Any]
"""One epoch: epoch, phase, loss, cider, seconds, and `val`, the scores of each decoder."""


class RunLog:
    """Writes the files of a run again after each epoch, so that a resumed run repeats no line and misses none."""

    def __init__(self, run: Path, corpus: Corpus) -> None:
        self.run, self.corpus = run, corpus
        self._drawn = float("-inf")  # time of the last drawing

    def write(self, log: Sequence[LogEntry], captions: Mapping[str, Mapping[str, str]]) -> None:
        """Write everything: the log, with an entry per epoch, and each decoder's current captions of the val images."""
        (self.run / LOG).write_text("".join(json.dumps(entry) + "\n" for entry in log))
        self._write_table(log)
        self._write_samples(log[-1]["epoch"], captions)
        self._write_events(log[-1])
        if time.monotonic() - self._drawn > _DRAW_SECONDS:
            self.draw_curves(log)
            self._drawn = time.monotonic()

    def draw_curves(self, log: Sequence[LogEntry]) -> None:
        """Draw the training loss and the val CIDEr-D."""
        figure = new_figure(9, 3.5)
        left, right = figure.subplots(1, 2)
        first_phase = [entry for entry in log if entry["phase"] == "cross_entropy"]
        left.plot([entry["epoch"] for entry in first_phase], [entry["loss"] for entry in first_phase], marker=".")
        left.set(xlabel="epoch", ylabel="cross-entropy, nats per word", title="training")
        epochs = [entry["epoch"] for entry in log]
        for decoder in log[0]["val"]:
            right.plot(epochs, [entry["val"][decoder]["cider"] for entry in log], marker=".", label=decoder)
        if len(first_phase) < len(log):
            right.axvline(len(first_phase) + 0.5, linestyle=":", color="grey")
        right.set(xlabel="epoch", ylabel="CIDEr-D, beam 3", title="val (dotted line: SCST starts)")
        right.legend()
        figure.savefig(self.run / CURVES, dpi=110)

    def _write_table(self, log: Sequence[LogEntry]) -> None:
        rows = [_flat(entry) for entry in log]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (self.run / TABLE).open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)

    def _write_samples(self, epoch: int, captions: Mapping[str, Mapping[str, str]]) -> None:
        lines = [f"# Captions after epoch {epoch}", ""]
        names = list(next(iter(captions.values())))
        for name in names[:: max(1, len(names) // _SHOWN)][:_SHOWN]:
            lines += [f"## {name}", "", *(f"- {decoder}: {by_name[name]}" for decoder, by_name in captions.items())]
            lines += [f"- reference: {self.corpus.captions[name][0]}", ""]
        (self.run / SAMPLES).write_text("\n".join(lines))

    def _write_events(self, entry: LogEntry) -> None:
        for name, value in _flat(entry).items():
            if isinstance(value, int | float) and name != "epoch":
                self._tensorboard.add_scalar(name, value, entry["epoch"])
        self._tensorboard.flush()

    @cached_property
    def _tensorboard(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.run / "tensorboard"))


def _flat(entry: LogEntry) -> dict[str, Any]:
    """Return a log entry with the scores of each decoder and data set as `decoder/set/score`."""
    flat = {name: value for name, value in entry.items() if name != "val"}
    for decoder, scores in entry["val"].items():
        flat |= {f"{decoder}/{name}": value for name, value in scores.items() if name != "sets"}
        for part, of_part in scores.get("sets", {}).items():
            flat |= {f"{decoder}/{part}/{name}": value for name, value in of_part.items()}
    return flat
