"""The training loop: teacher forcing, a running average of the weights, the best epoch by free-running CIDEr."""

import json
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, torch's own habit

from captioning.model.captioner import Captioner
from captioning.model.pixels import Preprocessing
from captioning.model.vocabulary import END, PAD, START, Vocabulary
from captioning.values import DecodeOptions
from training.config import TrainConfig
from training.dataset import Corpus
from training.features import Features
from training.metrics import score
from training.network import CaptioningNetwork
from training.text import words_of

LAST, BEST, LOG = "last.pt", "best.safetensors", "log.jsonl"
_MIRROR_BLIND = {"left", "right"}  # words that a mirrored picture makes untrue


@dataclass(frozen=True)
class TrainingData:
    """A corpus as the loop reads it."""

    corpus: Corpus
    vocabulary: Vocabulary
    train: Features
    val: Features


@dataclass
class Progressed:
    """Where a run stands: all that a resumed run needs besides weights."""

    epoch: int = 0
    step: int = 0
    best_cider: float = -1.0
    best_epoch: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch: loss, scores, seconds

    @property
    def best(self) -> dict[str, Any]:
        """What was logged of the best epoch."""
        return self.log[self.best_epoch - 1]


def fit(network: CaptioningNetwork, data: TrainingData, config: TrainConfig, run: Path, *, resume: bool) -> Progressed:
    """Train for `config.epochs`, keeping `last.pt` after each and `best.safetensors` by val CIDEr (beam 3)."""
    optimizer = torch.optim.AdamW(_groups(network, config), weight_decay=config.weight_decay)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    at = Progressed()
    torch.manual_seed(config.seed)
    if resume and (run / LAST).exists():
        at = _restore(run / LAST, network, optimizer, average)
    while at.epoch < config.epochs:
        started = time.monotonic()
        loss = _train_epoch(network, optimizer, average, data, config, at)
        at.epoch += 1
        scores = _evaluate_average(network, average, data)
        if scores["cider"] > at.best_cider:
            at.best_cider, at.best_epoch = scores["cider"], at.epoch
            save_file({n: v.contiguous() for n, v in average.items()}, run / BEST)
        seconds = round(time.monotonic() - started)
        at.log.append({"epoch": at.epoch, "loss": round(loss, 4), **scores, "seconds": seconds})
        _save(run / LAST, network, optimizer, average, at)
        (run / LOG).write_text("".join(json.dumps(line) + "\n" for line in at.log))
        print(json.dumps(at.log[-1]), file=sys.stderr)
    return at


def _train_epoch(
    network: CaptioningNetwork,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    data: TrainingData,
    config: TrainConfig,
    at: Progressed,
) -> float:
    """Take one pass over the training pictures; return the mean loss a step, in nats a word."""
    network.train()
    steps = math.ceil(len(data.corpus.train) / config.pictures)
    done, losses = 0, 0.0
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
    )
    columns += (TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"epoch {at.epoch + 1}/{config.epochs}", total=steps, loss=0.0)
        for done, (names, mirror, words) in enumerate(_batches(data, config, at.epoch), start=1):
            _set_learning_rates(optimizer, config, at, steps)
            losses += _step(network, optimizer, data.train.get(names, mirror), words, config)
            at.step += 1
            _follow(average, network, at.step, config.average_decay)
            progress.update(task, advance=1, loss=losses / done)
    return losses / done


def caption_all(
    captioner: Captioner, features: Features, names: Sequence[str], network: CaptioningNetwork
) -> dict[str, str]:
    """Return what a model says, free-running with the default beam, about each named picture."""
    said: dict[str, str] = {}
    with torch.inference_mode():
        for start in range(0, len(names), 50):
            some = names[start : start + 50]
            grid = network.grid(features.get(some, [False] * len(some)).to(next(network.parameters()).dtype))
            said |= zip(some, (c.text for c in captioner.describe(grid, DecodeOptions())), strict=True)
    return said


def _evaluate_average(
    network: CaptioningNetwork, average: Mapping[str, Tensor], data: TrainingData
) -> dict[str, float]:
    own = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(average)
    network.eval()
    captioner = Captioner(lambda x: x, network.decoder, data.vocabulary, Preprocessing())
    said = caption_all(captioner, data.val, data.corpus.val, network)
    network.load_state_dict(own)
    return score(said, data.corpus.captions) | {"distinct": len(set(said.values()))}


def _groups(network: CaptioningNetwork, config: TrainConfig) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"params": list(network.decoder.parameters()), "peak": config.learning_rate, "rest": 0}
    ]
    if network.stage5 is not None:
        stage5 = list(network.stage5.parameters())
        groups.append({"params": stage5, "peak": config.encoder_learning_rate, "rest": config.encoder_rest})
    return groups


def _set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, at: Progressed, steps: int) -> None:
    """Linear warm-up, then a cosine to a hundredth; a group that rests begins its own warm-up later."""
    total = config.epochs * steps
    for group in optimizer.param_groups:
        own = at.step - group["rest"] * steps
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, at.step / total))) / 2
        group["lr"] = group["peak"] * max(0.0, min(1.0, own / config.warm_up)) * cosine


def _step(
    network: CaptioningNetwork, optimizer: torch.optim.Optimizer, features: Tensor, words: Tensor, config: TrainConfig
) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(features, words[:, :-1])
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), words[:, 1:].flatten(), ignore_index=PAD, label_smoothing=config.label_smoothing
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _follow(average: dict[str, Tensor], network: CaptioningNetwork, step: int, decay: float) -> None:
    """Move the running average towards the weights; quickly at first, when they are worth little."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), share)


def _batches(data: TrainingData, config: TrainConfig, epoch: int) -> Iterator[tuple[list[str], list[bool], Tensor]]:
    """Yield names (B), whether each is mirrored, and word ids (B x captions, T): the same for a seed and epoch."""
    chance = random.Random(f"{config.seed}/{epoch}")
    names = list(data.corpus.train)
    chance.shuffle(names)
    longest = DecodeOptions().max_words
    for start in range(0, len(names), config.pictures):
        some = names[start : start + config.pictures]
        mirror = [bool(data.train.mirrored) and chance.random() < 0.5 for _ in some]
        rows = [
            [START, *data.vocabulary.encode(words)[:longest], END]
            for name, mirrored in zip(some, mirror, strict=True)
            for words in _sentences(data.corpus.captions[name], mirrored, config.captions, chance)
        ]
        table = torch.full((len(rows), max(map(len, rows))), PAD)
        for i, row in enumerate(rows):
            table[i, : len(row)] = torch.tensor(row)
        yield some, mirror, table


def _sentences(captions: Sequence[str], mirrored: bool, count: int, chance: random.Random) -> list[list[str]]:
    """Choose `count` captions, again from the start when there are fewer; none that a mirror makes untrue."""
    words = [words_of(caption) for caption in captions]
    fit_both = [w for w in words if not _MIRROR_BLIND.intersection(w)] if mirrored else words
    chosen = chance.sample(fit_both or words, k=len(fit_both or words))
    return [chosen[i % len(chosen)] for i in range(count)]


def _save(
    path: Path, network: CaptioningNetwork, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], at: Progressed
) -> None:
    unfinished = path.with_suffix(".part")
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "at": asdict(at),
        "chance": torch.get_rng_state(),
    }
    torch.save(state, unfinished)
    unfinished.replace(path)  # a run that dies while saving keeps its last whole checkpoint


def _restore(
    path: Path, network: CaptioningNetwork, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> Progressed:
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    average.update(state["average"])
    torch.set_rng_state(state["chance"])
    return Progressed(**state["at"])
