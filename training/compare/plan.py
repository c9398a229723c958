"""Which runs the comparison consists of: the arms, their sizes, learning rates and seeds.

An arm is one way to build the decoder. A GRU has three quarters of an LSTM's weights, so it has two arms: one with
the width of the LSTM, one with about as many weights ("same budget"). With a classifier, both cells have an arm that
reads concepts too.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from captioning.model.decoder import make_decoder
from captioning.values import Cell
from training.config import TrainConfig
from training.fit.train import shape_of

LSTM, SAME_WIDTH, SAME_BUDGET = "LSTM", "GRU, same width", "GRU, same budget"
PLAIN_LSTM, PLAIN_GRU = "plain LSTM", "plain GRU"
LSTM_CONCEPTS, GRU_CONCEPTS = "LSTM with concepts", "GRU with concepts"

_ATTENTION_ARMS = (LSTM, SAME_WIDTH, SAME_BUDGET)
_PLAIN_ARMS = {PLAIN_LSTM: LSTM, PLAIN_GRU: SAME_WIDTH}  # and the arm from which each takes its learning rate
_CONCEPT_ARMS = {LSTM_CONCEPTS: LSTM, GRU_CONCEPTS: SAME_WIDTH}  # the same
_STEP = 2.0  # between the learning rates that are tried
_TUNING_SEED = 0
_FOLDER = "runs"  # of the training runs, in the comparison's folder


@dataclass(frozen=True)
class Plan:
    """How much is trained."""

    seeds: int = 5
    epochs: int = 5
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)  # learning rates to choose from
    tuning_epochs: int = 2
    size: int = 256  # of the LSTM's state and of the projected grid
    min_count: int = 5
    limit: int = 0  # training images; 0: all
    val_limit: int = 100  # val images scored after each epoch, for the curves
    warmup_steps: int = 60  # optimizer steps
    batch_size: int = 64  # images
    classifier: str = ""  # file of the classifier; some arms read its words; none: no such arms
    concepts: int = 6  # words that they read


QUICK = Plan(
    seeds=2, epochs=4, rates=(1e-3, 2e-3), tuning_epochs=2, size=128, limit=1000, warmup_steps=30, batch_size=16
)
"""A plan of minutes, which shows that the comparison works. Its result means nothing."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of the plan."""

    arm: str
    config: TrainConfig
    folder: Path

    @property
    def is_tuning(self) -> bool:
        """Whether the run only helps to choose a learning rate."""
        return self.config.seed == _TUNING_SEED


def base_config(plan: Plan, threads: int) -> TrainConfig:
    """Return what all runs have in common. The last epoch's moving average is kept, so no epoch is selected."""
    return TrainConfig(
        hidden_size=plan.size, memory_size=plan.size, epochs=plan.epochs, min_count=plan.min_count, limit=plan.limit,
        val_limit=plan.val_limit, warmup_steps=plan.warmup_steps, batch_size=plan.batch_size, keep_last=True,
        threads=threads,
    )  # fmt: skip


def arms_of(base: TrainConfig, words: int, plan: Plan) -> dict[str, TrainConfig]:
    """Return the config of each arm; the vocabulary has `words` words."""
    lstm, gru = replace(base, cells=("lstm",)), replace(base, cells=("gru",))
    arms = {
        LSTM: lstm,
        SAME_WIDTH: gru,
        SAME_BUDGET: replace(gru, hidden_size=same_budget(base, words)),
        PLAIN_LSTM: replace(lstm, kind="plain"),
        PLAIN_GRU: replace(gru, kind="plain"),
    }
    if plan.classifier:
        for arm, config in ((LSTM_CONCEPTS, lstm), (GRU_CONCEPTS, gru)):
            arms[arm] = replace(config, classifier=plan.classifier, concepts=plan.concepts)
    return arms


def pairs_of(arms: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return what is compared, by title: two arms, the second minus the first."""
    pairs = {SAME_WIDTH: (LSTM, SAME_WIDTH), SAME_BUDGET: (LSTM, SAME_BUDGET)}
    if LSTM_CONCEPTS in arms:
        pairs |= {
            "both with concepts": (LSTM_CONCEPTS, GRU_CONCEPTS),
            "LSTM, concepts": (LSTM, LSTM_CONCEPTS),
            "GRU, concepts": (SAME_WIDTH, GRU_CONCEPTS),
        }
    return pairs


def same_budget(config: TrainConfig, words: int) -> int:
    """Return the multiple of 8 at which a GRU decoder has about as many parameters as the config's LSTM decoder."""

    def parameters(cell: Cell, hidden_size: int) -> int:
        return count_parameters(make_decoder(shape_of(replace(config, hidden_size=hidden_size), cell, words)))

    target = parameters("lstm", config.hidden_size)
    widths = range(config.hidden_size // 8 * 8, config.hidden_size * 2, 8)
    return min(widths, key=lambda width: abs(parameters("gru", width) - target))


def count_parameters(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def tuning_runs(
    folder: Path, plan: Plan, arms: Mapping[str, TrainConfig], found: Mapping[str, Mapping[float, float]]
) -> list[PlannedRun]:
    """Return the shorter runs, with a seed of their own, that choose the learning rate of each arm with attention.

    `found` has the CIDEr-D by arm and rate so far. Where the best is at an edge of the rates, the next one beyond it is
    tried too.
    """
    return [
        _planned(folder, arm, replace(arms[arm], learning_rate=rate, seed=_TUNING_SEED, epochs=plan.tuning_epochs))
        for arm in _ATTENTION_ARMS
        for rate in (_beyond(found[arm]) if arm in found else plan.rates)
    ]


def _beyond(ciders: Mapping[float, float]) -> list[float]:
    """Return the rate next to the best one, if that is the lowest or the highest of several."""
    best = max(ciders, key=lambda rate: ciders[rate])
    if len(ciders) == 1:
        return []
    return ([best / _STEP] if best == min(ciders) else []) + ([best * _STEP] if best == max(ciders) else [])


def main_runs(
    folder: Path, plan: Plan, arms: Mapping[str, TrainConfig], rates: Mapping[str, float]
) -> Iterator[PlannedRun]:
    """Yield the runs that are compared, with the learning rate chosen for each arm; plain decoders get one seed."""
    for seed in range(1, plan.seeds + 1):
        for arm in _ATTENTION_ARMS:
            yield _planned(folder, arm, replace(arms[arm], learning_rate=rates[arm], seed=seed))
        for arm, tuned_arm in _CONCEPT_ARMS.items():
            if arm in arms:
                yield _planned(folder, arm, replace(arms[arm], learning_rate=rates[tuned_arm], seed=seed))
    for arm, tuned_arm in _PLAIN_ARMS.items():
        yield _planned(folder, arm, replace(arms[arm], learning_rate=rates[tuned_arm], seed=1))


def _planned(folder: Path, arm: str, config: TrainConfig) -> PlannedRun:
    name = arm.lower().replace(", ", "-").replace(" ", "-")
    return PlannedRun(arm, config, folder / _FOLDER / f"{name}-rate{config.learning_rate:g}-seed{config.seed}")
