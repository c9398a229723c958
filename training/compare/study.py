"""LSTM or GRU: many small runs under one protocol, each of which can be resumed.

Everything except the decoder is the same: one frozen encoder and its cached features, the vocabulary, the order of
batches, the number of steps, the seeds. The learning rate of each decoder is chosen from one grid, by shorter runs
with a seed of their own. Nothing else is selected: the moving average of the weights after the last epoch is evaluated,
with the product's captioner, on the test split if there is one, otherwise on the val split.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from captioning.atomic import write_text
from captioning.errors import UsageError
from captioning.model.decoder import make_decoder
from training.compare.executor import EvaluationSet, Executor, FinishedRun
from training.compare.plan import (
    LSTM,
    SAME_BUDGET,
    SAME_WIDTH,
    Plan,
    arms_of,
    base_config,
    count_parameters,
    main_runs,
    pairs_of,
    tuning_runs,
)
from training.compare.significance import Difference, difference
from training.data.batches import TrainingData
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile
from training.data.features import features_of
from training.fit.train import prepare, shape_of

RESULT = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """All that the report shows."""

    plan: Plan
    data: TrainingData
    evaluation_set: EvaluationSet
    encoder: EncoderFile
    runs: dict[str, list[FinishedRun]]  # by arm, one for each seed
    tuning: dict[str, dict[float, float]]  # CIDEr-D by arm and learning rate
    parameters: dict[str, int]  # by arm
    hidden: dict[str, int]  # size of the recurrent state by arm
    differences: dict[str, Difference]  # by title, see pairs_of

    @property
    def answer(self) -> str:
        """The result in one sentence, with its uncertainty."""
        cider = mean(run.scores["cider"] for run in self.runs[LSTM])
        width, budget = self.differences[SAME_WIDTH], self.differences[SAME_BUDGET]
        verdicts = {found.verdict for found in (width, budget)}
        verdict = verdicts.pop() if len(verdicts) == 1 else "the result depends on how the sizes are matched"
        return (
            f"{verdict[0].upper()}{verdict[1:]}: on {len(self.evaluation_set.names)} images, with"
            f" {self.plan.seeds} training runs each, the LSTM reaches CIDEr-D {cider:.3f},"
            f" a GRU of the same width {width.sentence}, and a GRU with as many weights {budget.sentence}."
        )


def compare(
    data: Sequence[DataFolder], encoder: EncoderFile, folder: Path, cache: Path, plan: Plan, jobs: int = 1
) -> Comparison:
    """Train and evaluate what is not done yet in `folder`, and return all results.

    `jobs` runs train at once, each with its share of the cores. Raises CaptioningError when one fails.
    """
    base = base_config(plan, threads=max(1, torch.get_num_threads() // jobs))
    prepared = prepare(data, encoder, base, cache)
    val_set = EvaluationSet(prepared.corpus.val, prepared.val)
    evaluation_set = _test_set(encoder, prepared, cache) or val_set
    if len(evaluation_set.names) < 2:
        raise UsageError("the comparison needs two images or more to evaluate on, there is only one.")
    words = len(prepared.vocabulary)
    arms = arms_of(base, words, plan)
    executor = Executor(data, encoder, cache, prepared, jobs)
    tuning: dict[str, dict[float, float]] = {}
    while trials := tuning_runs(folder, plan, arms, tuning):
        for run in executor.finish_all(trials, val_set):
            tuning.setdefault(run.arm, {})[run.rate] = run.scores["cider"]
    rates = {arm: max(ciders, key=lambda rate: ciders[rate]) for arm, ciders in tuning.items()}
    runs: dict[str, list[FinishedRun]] = {}
    for run in executor.finish_all(list(main_runs(folder, plan, arms, rates)), evaluation_set):
        runs.setdefault(run.arm, []).append(run)
    ciders = {arm: [run.ciders for run in of_arm] for arm, of_arm in runs.items()}
    differences = {
        title: difference(ciders[first], ciders[second], *_called(first, second))
        for title, (first, second) in pairs_of(arms).items()
    }
    shapes = {arm: shape_of(config, config.cells[0], words) for arm, config in arms.items()}
    parameters = {arm: count_parameters(make_decoder(shape)) for arm, shape in shapes.items()}
    hidden = {arm: shape.hidden_size for arm, shape in shapes.items()}
    comparison = Comparison(plan, prepared, evaluation_set, encoder, runs, tuning, parameters, hidden, differences)
    write_text(folder / RESULT, json.dumps(_to_json(comparison), indent=1) + "\n")
    return comparison


def _called(first: str, second: str) -> tuple[str, str]:
    """Return what a sentence calls two arms: by their cells where these differ, otherwise by all that differs."""
    cells = tuple(f"the {arm.replace(',', '').split()[0]}" for arm in (first, second))
    return (cells[0], cells[1]) if cells[0] != cells[1] else (f"the {first}", f"the {second}")


def _test_set(encoder: EncoderFile, prepared: TrainingData, cache: Path) -> EvaluationSet | None:
    """Return the test split with its features; None when the corpus has none."""
    corpus = prepared.corpus
    if not corpus.test:
        return None
    return EvaluationSet(corpus.test, features_of(encoder, corpus, corpus.test, "grid", cache))


def _to_json(comparison: Comparison) -> dict[str, Any]:
    corpus, encoder = comparison.data.corpus, comparison.encoder
    fields = ("arm", "seed", "rate", "seconds", "scores", "diversity")
    return {
        "answer": comparison.answer,
        "plan": asdict(comparison.plan),
        "encoder": {"digest": encoder.digest, **encoder.about},
        "images": {"train": len(corpus.train), "digest": corpus.digest},
        "parameters": comparison.parameters,
        "hidden": comparison.hidden,
        "tuning": comparison.tuning,
        "differences": {arm: asdict(found) for arm, found in comparison.differences.items()},
        "runs": [{field: getattr(run, field) for field in fields} for runs in comparison.runs.values() for run in runs],
    }
