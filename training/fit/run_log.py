"""What a run tells people: log.csv, curves.png, samples.md, and events for TensorBoard."""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from training.data.corpus import Corpus

LOG, TABLE, SAMPLES, CURVES = "log.jsonl", "log.csv", "samples.md", "curves.png"
_SHOWN = 12  # val images in the samples
_PAINTED_EVERY = 30.0  # seconds; an image takes half of one


class RunLog:
    """Writes a run's folder anew after each epoch, so that it never lags behind nor repeats itself."""

    def __init__(self, run: Path, corpus: Corpus) -> None:
        self.run, self.corpus = run, corpus
        self._painted = float("-inf")

    def write(self, log: Sequence[Mapping[str, Any]], said: Mapping[str, Mapping[str, str]]) -> None:
        """Write all: the log with one entry an epoch, and what each decoder now says of the val images."""
        (self.run / LOG).write_text("".join(json.dumps(line) + "\n" for line in log))
        self._table(log)
        self._samples(log[-1], said)
        self._events(log[-1])
        if time.monotonic() - self._painted > _PAINTED_EVERY:
            self.paint(log)
            self._painted = time.monotonic()

    def _table(self, log: Sequence[Mapping[str, Any]]) -> None:
        rows = [flat(line) for line in log]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (self.run / TABLE).open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)

    def _samples(self, line: Mapping[str, Any], said: Mapping[str, Mapping[str, str]]) -> None:
        text = [f"# What the model says after epoch {line['epoch']}", ""]
        names = list(next(iter(said.values())))
        for name in names[:: max(1, len(names) // _SHOWN)][:_SHOWN]:
            text += [f"## {name}", "", *(f"- {who}: {captions[name]}" for who, captions in said.items())]
            text += [f"- a person: {self.corpus.captions[name][0]}", ""]
        (self.run / SAMPLES).write_text("\n".join(text))

    def paint(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Draw the curves of a run."""
        from matplotlib.figure import Figure  # half a second, and only here

        figure = Figure(figsize=(9, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        words = [line for line in log if line["phase"] == "words"]
        left.plot([line["epoch"] for line in words], [line["loss"] for line in words], marker=".")
        left.set(xlabel="epoch", ylabel="loss, nats a word", title="training")
        for who in log[0]["val"]:
            right.plot(
                [line["epoch"] for line in log], [line["val"][who]["cider"] for line in log], marker=".", label=who
            )
        if len(words) < len(log):
            right.axvline(len(words) + 0.5, linestyle=":", color="grey")
        right.set(xlabel="epoch", ylabel="CIDEr-D, beam 3", title="val (dotted: from here by rewards)")
        right.legend()
        figure.savefig(self.run / CURVES, dpi=110)

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.run / "tensorboard"))

    def _events(self, line: Mapping[str, Any]) -> None:
        for name, value in flat(line).items():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()


def flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log line with the scores of each decoder as `decoder/score`."""
    own = {name: value for name, value in line.items() if name != "val"}
    return own | {f"{who}/{name}": value for who, scores in line["val"].items() for name, value in scores.items()}
