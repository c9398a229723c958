"""LSTM or GRU: many small trainings under one protocol, each resumable, each judged by the product's captioner.

Everything that isn't the decoder is the same: one frozen encoder and its cached features, vocabulary, order of
batches, number of steps, seeds. The learning rate of each decoder is chosen from one grid on a seed of its own,
by shorter trainings. Nothing else is chosen by the judged images: the last epoch's running average is judged.
A GRU has three quarters of an LSTM's weights, so it competes twice: with the same width, and with the same budget.
"""

import json
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from captioning.errors import CaptioningError, UsageError
from captioning.model.captioner import Captioner
from captioning.model.decoder import make_decoder
from captioning.values import Caption, Cell
from training.compare.processes import begin_child
from training.compare.significance import Difference, difference
from training.config import TrainConfig
from training.data.batches import TrainingData
from training.data.encoders import EncoderFile
from training.data.features import Features
from training.evaluate.metrics import cider_of_each, score
from training.evaluate.score_bundle import all_scores, habits_of
from training.fit.checkpoints import LAST
from training.fit.loop import caption_all, captioners
from training.fit.run_dir import CONFIG, begun_as, captions_digest, wanted_of, write_text_atomic
from training.fit.run_log import LOG
from training.fit.train import features_of, prepare, run_training, shape_of
from training.fit.trained import ABOUT, best_network

JUDGED, RESULT = "judged.json", "comparison.json"
_CPU = torch.device("cpu")
_ONE_AT_A_TIME = threading.Lock()
LSTM, SAME_WIDTH, SAME_BUDGET = "LSTM", "GRU, same width", "GRU, same budget"
PLAIN_LSTM, PLAIN_GRU = "plain LSTM", "plain GRU"


@dataclass(frozen=True)
class Plan:
    """How much is trained."""

    seeds: int = 5
    epochs: int = 5
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    tuning_epochs: int = 2
    size: int = 256  # of the LSTM's state and of the projected grid
    min_count: int = 5
    limit: int = 0  # training images; 0: all
    val_limit: int = 100  # val images scored after each epoch, for the curves
    warmup_steps: int = 60  # optimizer steps
    images: int = 64  # a step


QUICK = Plan(seeds=2, epochs=4, rates=(1e-3, 2e-3), tuning_epochs=2, size=128, limit=1000, warmup_steps=30, images=16)


@dataclass(frozen=True)
class Judges:
    """The images that decide: of the test split where there is one, else of the val split."""

    names: tuple[str, ...]
    features: Features


@dataclass(frozen=True)
class Trained:
    """One training and how it was judged."""

    arm: str
    seed: int
    rate: float
    run: Path
    seconds: float
    log: list[dict[str, Any]]
    scores: dict[str, float]
    habits: dict[str, float]
    captions: dict[str, str]
    ciders: dict[str, float]  # of every judged image


@dataclass(frozen=True)
class Comparison:
    """All that the report tells."""

    plan: Plan
    data: TrainingData
    judges: Judges
    encoder: EncoderFile
    trained: dict[str, list[Trained]]  # by decoder, a training a seed
    tuning: dict[str, dict[float, float]]  # CIDEr by decoder and learning rate
    parameters: dict[str, int]
    hidden: dict[str, int]
    differences: dict[str, Difference]  # GRU minus LSTM

    @property
    def answer(self) -> str:
        """The question's answer in a sentence, with its uncertainty."""
        lstm = mean(t.scores["cider"] for t in self.trained[LSTM])
        verdicts = {d.verdict for d in self.differences.values()}
        verdict = verdicts.pop() if len(verdicts) == 1 else "it depends on how their sizes are matched"
        width, budget = self.differences[SAME_WIDTH], self.differences[SAME_BUDGET]
        return (
            f"{verdict[0].upper()}{verdict[1:]}: on {len(self.trained[LSTM][0].captions)} images, with"
            f" {self.plan.seeds} trainings each, the LSTM reaches CIDEr-D {lstm:.3f},"
            f" a GRU of the same width {width.sentence}, and a GRU with as many weights {budget.sentence}."
        )


@dataclass(frozen=True)
class _Cell:
    """One training of the plan."""

    arm: str
    config: TrainConfig
    run: Path


def compare(data: Path, encoder: EncoderFile, run: Path, cache: Path, plan: Plan, jobs: int = 1) -> Comparison:
    """Train what isn't trained yet, judge what isn't judged yet, and return all of it.

    `jobs` trainings run at once, each with its share of the cores. Raises CaptioningError when one fails.
    """
    base = TrainConfig(
        hidden_size=plan.size, memory_size=plan.size, epochs=plan.epochs, min_count=plan.min_count, limit=plan.limit,
        val_limit=plan.val_limit, warmup_steps=plan.warmup_steps, images=plan.images, keep_last=True,
        threads=max(1, torch.get_num_threads() // jobs),
    )  # fmt: skip
    prepared = prepare(data, encoder, base, cache)
    corpus = prepared.corpus
    by_val = Judges(corpus.val, prepared.val)
    judges = Judges(corpus.test, features_of(encoder, corpus, corpus.test, "grid", cache)) if corpus.test else by_val
    arms = _arms(base, len(prepared.vocabulary))
    go = partial(_train_all, data, encoder, cache, prepared, jobs)
    tuned = go(
        by_val, [_tuning_cell(run, plan, arm, config, rate) for arm, config in _attentive(arms) for rate in plan.rates]
    )
    tuning: dict[str, dict[float, float]] = {}
    for one in tuned:
        tuning.setdefault(one.arm, {})[one.rate] = one.scores["cider"]
    rates = {arm: max(found, key=lambda rate: found[rate]) for arm, found in tuning.items()}
    cells = [
        _cell(run, arm, replace(config, learning_rate=rates[arm], seed=seed))
        for seed in range(1, plan.seeds + 1)
        for arm, config in _attentive(arms)
    ]
    for plain, like in ((PLAIN_LSTM, LSTM), (PLAIN_GRU, SAME_WIDTH)):
        cells.append(_cell(run, plain, replace(arms[plain], learning_rate=rates[like], seed=1)))
    trained: dict[str, list[Trained]] = {}
    for one in go(judges, cells):
        trained.setdefault(one.arm, []).append(one)
    lstm = [t.ciders for t in trained[LSTM]]
    differences = {arm: difference(lstm, [t.ciders for t in trained[arm]]) for arm in (SAME_WIDTH, SAME_BUDGET)}
    shapes = {arm: shape_of(config, config.cells[0], len(prepared.vocabulary)) for arm, config in arms.items()}
    parameters = {arm: _parameters(make_decoder(shape)) for arm, shape in shapes.items()}
    hidden = {arm: shape.hidden_size for arm, shape in shapes.items()}
    found = Comparison(plan, prepared, judges, encoder, trained, tuning, parameters, hidden, differences)
    write_text_atomic(run / RESULT, json.dumps(_told(found), indent=1) + "\n")
    return found


def _arms(base: TrainConfig, words: int) -> dict[str, TrainConfig]:
    lstm, gru = replace(base, cells=("lstm",)), replace(base, cells=("gru",))
    return {
        LSTM: lstm,
        SAME_WIDTH: gru,
        SAME_BUDGET: replace(gru, hidden_size=same_budget(base, words)),
        PLAIN_LSTM: replace(lstm, kind="plain"),
        PLAIN_GRU: replace(gru, kind="plain"),
    }


def same_budget(config: TrainConfig, words: int) -> int:
    """Return the width, in eights, at which a GRU decoder has about as many parameters as the LSTM of a config."""

    def size(cell: Cell, hidden: int) -> int:
        return _parameters(make_decoder(shape_of(replace(config, hidden_size=hidden), cell, words)))

    target = size("lstm", config.hidden_size)
    widths = range(config.hidden_size // 8 * 8, config.hidden_size * 2, 8)
    return min(widths, key=lambda width: abs(size("gru", width) - target))


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _attentive(arms: dict[str, TrainConfig]) -> Iterator[tuple[str, TrainConfig]]:
    yield from ((arm, arms[arm]) for arm in (LSTM, SAME_WIDTH, SAME_BUDGET))


def _tuning_cell(run: Path, plan: Plan, arm: str, config: TrainConfig, rate: float) -> _Cell:
    return _cell(run, arm, replace(config, learning_rate=rate, seed=0, epochs=plan.tuning_epochs))


def _cell(run: Path, arm: str, config: TrainConfig) -> _Cell:
    name = arm.lower().replace(", ", "-").replace(" ", "-")
    return _Cell(arm, config, run / "cells" / f"{name}-rate{config.learning_rate:g}-seed{config.seed}")


def _train_all(
    data: Path,
    encoder: EncoderFile,
    cache: Path,
    prepared: TrainingData,
    jobs: int,
    judges: Judges,
    cells: list[_Cell],
) -> list[Trained]:
    console = Console(stderr=True)
    processes = ProcessPoolExecutor(  # spawned: torch's threads don't survive a fork
        jobs, mp_context=get_context("spawn"), initializer=begin_child
    )
    with Progress(console=console) as progress, processes, ThreadPoolExecutor(jobs) as judging:
        task = progress.add_task("trainings", total=len(cells))
        train = lambda cell: processes.submit(_train, data, encoder, cache, cell)  # noqa: E731
        found = []
        for one in judging.map(lambda cell: _trained(train, data, encoder, prepared, judges, cell), cells):
            found.append(one)
            progress.advance(task)
            console.print(
                f"{one.arm}, rate {one.rate:g}, seed {one.seed}: CIDEr-D {one.scores['cider']:.4f}, {one.seconds:.0f} s"
            )
    return found


def _trained(
    train: Callable[[_Cell], Future[None]],
    data: Path,
    encoder: EncoderFile,
    prepared: TrainingData,
    judges: Judges,
    cell: _Cell,
) -> Trained:
    if (cell.run / CONFIG).exists() and not begun_as(cell.run / CONFIG, wanted_of(cell.config, encoder)):
        raise UsageError(f"{cell.run} belongs to another comparison: name another folder, or the settings of that one.")
    if not (cell.run / ABOUT).exists():
        try:
            train(cell).result()
        except BrokenProcessPool:
            raise CaptioningError(
                f"a training process was killed ({cell.run.name} waited for it); is there memory enough for several at"
                " once? The same command goes on from the last epochs."
            ) from None
    about = json.loads((cell.run / ABOUT).read_text())
    begun = json.loads((cell.run / CONFIG).read_text())
    if begun.get("captions") != captions_digest(prepared.corpus):
        raise UsageError(
            f"{cell.run} was trained on other images or captions than {data} has now: name another folder."
        )
    judged = json.loads((cell.run / JUDGED).read_text()) if (cell.run / JUDGED).exists() else {"captions": {}}
    if set(judged["captions"]) != set(judges.names):
        judged = _judge(prepared, judges, cell)
    log = [json.loads(line) for line in (cell.run / LOG).read_text().splitlines()]
    return Trained(cell.arm, cell.config.seed, cell.config.learning_rate, cell.run, about["seconds"], log, **judged)


def _train(data: Path, encoder: EncoderFile, cache: Path, cell: _Cell) -> None:
    """Train a cell, from its last checkpoint if it has one, in a process apart; what it has to say goes to a log."""
    cell.run.mkdir(parents=True, exist_ok=True)
    log = cell.run / "output.log"
    with log.open("a") as output:
        for stream in (1, 2):  # what libraries write too
            os.dup2(output.fileno(), stream)
    try:
        run_training(data, encoder, cell.config, cell.run, cache, resume=True)
    except CaptioningError as error:
        raise CaptioningError(f"training {cell.run.name}: {error} (all that it said: {log})") from None
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        raise CaptioningError(f"training {cell.run.name}: {what} (all that it said: {log})") from None
    (cell.run / LAST).unlink(missing_ok=True)  # only a resumed training would read it, and it is large


def _judge(prepared: TrainingData, judges: Judges, cell: _Cell) -> dict[str, Any]:
    said = said_by(cell.run, prepared, judges)
    texts = {name: caption.text for name, caption in said.items()}
    with _ONE_AT_A_TIME:  # WordNet's reader is not for several threads
        scores = (score if cell.config.seed == 0 else all_scores)(texts, prepared.corpus.captions)
    judged = {
        "scores": scores,
        "habits": habits_of(said, prepared.corpus),
        "captions": texts,
        "ciders": {name: round(value, 5) for name, value in cider_of_each(texts, prepared.corpus.captions).items()},
    }
    write_text_atomic(cell.run / JUDGED, json.dumps(judged) + "\n")
    return judged


def captioner_of(run: Path, prepared: TrainingData) -> Captioner:
    """Return the captioner of a run with one decoder, from grid features on."""
    _, network = best_network(run)
    return next(iter(captioners(network, prepared).values()))


def said_by(run: Path, prepared: TrainingData, judges: Judges) -> dict[str, Caption]:
    """Return what a finished run says about the judging images."""
    _, network = best_network(run)
    captioner = next(iter(captioners(network, prepared).values()))
    return caption_all(captioner, network, judges.features, judges.names, _CPU)


def _told(found: Comparison) -> dict[str, Any]:
    return {
        "answer": found.answer,
        "plan": asdict(found.plan),
        "encoder": {"digest": found.encoder.digest, **found.encoder.about},
        "images": {"train": len(found.data.corpus.train), "digest": found.data.corpus.digest},
        "parameters": found.parameters,
        "hidden": found.hidden,
        "tuning": found.tuning,
        "differences": {arm: asdict(d) for arm, d in found.differences.items()},
        "trainings": [
            {"arm": t.arm, "seed": t.seed, "rate": t.rate, "seconds": t.seconds, "scores": t.scores, "habits": t.habits}
            for arm in found.trained.values()
            for t in arm
        ],
    }
