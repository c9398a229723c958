"""The training loop: next words first, then rewards; a running average of the weights; the best epoch by CIDEr."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import Tensor

from captioning.errors import CaptioningError
from captioning.model.captioner import Captioner
from captioning.model.pixels import Preprocessing
from captioning.values import Caption, DecodeOptions
from training.config import TrainConfig
from training.data.batches import Batch, TrainingData, batches, steps_of
from training.data.features import Features
from training.data.tokens import words_of
from training.evaluate.metrics import score
from training.fit.checkpoints import BEST, LAST, TrainState, restore_checkpoint, save_best, save_checkpoint
from training.fit.network import CaptioningNetwork
from training.fit.run_log import RunLog
from training.fit.self_critical import CiderReward, advantages, sample

EVALUATED_TOGETHER = 100  # images


class DivergedError(CaptioningError):
    """Training has gone where no number is."""


@dataclass(frozen=True)
class _Phase:
    name: str
    epochs: int
    learning_rate: float
    encoder_learning_rate: float
    warmup_steps: int  # optimizer steps
    encoder_freeze_epochs: int  # epochs


def fit(
    fabric: Fabric,
    network: CaptioningNetwork,
    data: TrainingData,
    config: TrainConfig,
    run: Path,
    *,
    resume: bool,
    on_epoch: Callable[[int, float], None] = lambda epoch, cider: None,
) -> TrainState:
    """Train, keeping `last.pt` after each epoch and `best.safetensors` by val CIDEr (beam 3).

    Next words come first, then, if `scst_epochs` say so, rewards, from the best weights of the first. With
    several decoders the best epoch is that of their mean. A phase ends early after `patience` epochs without a
    better one. `on_epoch(epoch, val CIDEr)` is called after each, once it is saved; what it raises ends the run.
    """
    loop = _Loop(fabric, network, data, config, run)
    if resume and (run / LAST).exists():
        loop.at, scaler = restore_checkpoint(run, network, loop.optimizer, loop.average)
        fabric.strategy.precision.load_state_dict(scaler)
    phases = [
        _Phase("words", config.epochs, config.learning_rate, config.encoder_learning_rate, config.warmup_steps,
               config.encoder_freeze_epochs),
        _Phase("rewards", config.scst_epochs, config.scst_learning_rate,
               config.scst_encoder_learning_rate, config.warmup_steps // 4, 0),
    ]  # fmt: skip
    for index, phase in enumerate(phases):
        if phase.epochs and index >= loop.at.phase:
            loop.run(index, phase, on_epoch)
    if fabric.is_global_zero:
        loop.diary.paint(loop.at.log)
    return loop.at


class _Loop:
    """The moving parts of one run."""

    def __init__(
        self, fabric: Fabric, network: CaptioningNetwork, data: TrainingData, config: TrainConfig, run: Path
    ) -> None:
        self.fabric, self.network, self.data, self.config, self.folder = fabric, network, data, config, run
        self.at = TrainState()
        self.steps = steps_of(data, config, fabric.world_size)
        self.diary = RunLog(run, data.corpus)
        self.reward: CiderReward | None = None
        optimizer = _optimizer(config, _groups(network))
        self.parallel, self.optimizer = fabric.setup(network, optimizer)
        self.average = _copy(network)

    def run(self, index: int, phase: _Phase, on_epoch: Callable[[int, float], None]) -> None:
        """Take the epochs of a phase that are left."""
        if index > self.at.phase:
            self._begin(index)
        if phase.name == "rewards":
            for _, decoder in self.network.each():
                decoder.scale_dropout(self.config.scst_dropout)
            captions = self.data.corpus.captions
            self.reward = CiderReward({n: [words_of(s) for s in captions[n]] for n in self.data.corpus.train})
        while self.at.phase_epoch < phase.epochs and not self._waited_long_enough():
            self._epoch(phase)
            on_epoch(len(self.at.log), self.at.log[-1]["cider"])

    def _begin(self, index: int) -> None:
        """Go on from the best weights so far, with a fresh optimizer."""
        self.at.phase, self.at.phase_epoch, self.at.phase_step = index, 0, 0
        if self.at.best_epoch:
            self.network.load_state_dict(load_file(self.folder / BEST))
        self.average = _copy(self.network)
        self.optimizer.state.clear()
        self._save()  # from here on the best may be of this phase, which must not begin from itself

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            scaler = self.fabric.strategy.precision.state_dict()
            save_checkpoint(self.folder, self.network, self.optimizer, self.average, self.at, scaler)
        self.fabric.barrier()

    def _waited_long_enough(self) -> bool:
        waited = min(self.at.phase_epoch, len(self.at.log) - self.at.best_epoch)
        return bool(self.config.patience) and waited >= self.config.patience

    def _epoch(self, phase: _Phase) -> None:
        started, at = time.monotonic(), self.at
        number = len(at.log) + 1
        torch.manual_seed(hash((self.config.seed, number, self.fabric.global_rank)))  # numbers hash alike everywhere
        losses, rewards = self._learn(phase, number)
        at.phase_epoch += 1
        scores, said = self._evaluate() if self.fabric.is_global_zero else ({}, {})
        scores = self.fabric.broadcast(scores)
        cider = mean(s["cider"] for s in scores.values())
        if cider > at.best_cider or self.config.keep_last:
            at.best_cider, at.best_epoch = cider, number
        entry = {"epoch": number, "phase": phase.name, "loss": round(losses, 4), "cider": round(cider, 4)}
        entry |= {"reward": round(rewards, 4)} if phase.name == "rewards" else {}
        at.log.append(entry | {"seconds": round(time.monotonic() - started), "val": scores})
        if self.fabric.is_global_zero:
            if at.best_epoch == number:
                save_best(self.folder, self.average)
            self.diary.write(at.log, said)
        self._save()  # last: it vouches for the rest

    def _learn(self, phase: _Phase, number: int) -> tuple[float, float]:
        """Take one pass over the training images; return the means, over steps, of the loss and the reward."""
        self.network.train()
        sums, taken = torch.zeros(2), 0
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
            TimeRemainingColumn(), TextColumn("{task.fields[shown]}"),
        )  # fmt: skip
        shown = Progress(*columns, console=Console(stderr=True), disable=not self.fabric.is_global_zero)
        with shown as progress:
            task = progress.add_task(f"epoch {number}, {phase.name}", total=self.steps, shown="")
            fabric = self.fabric
            for batch in batches(self.data, self.config, number, fabric.global_rank, fabric.world_size):
                self._set_learning_rates(phase)
                sums += torch.tensor(self._step(batch, rewarded=phase.name == "rewards"))
                self.at.phase_step += 1
                self._follow()
                taken += 1
                loss, reward = (sums / taken).tolist()
                text = f"reward {reward:.3f}" if phase.name == "rewards" else f"loss {loss:.3f}"
                progress.update(task, advance=1, shown=text)
        return loss, reward

    def _step(self, batch: Batch, *, rewarded: bool) -> tuple[float, float]:
        """Take one step; return its loss and its mean reward, means over the decoders."""
        features = self.data.train.get(batch.names, batch.views).to(self.fabric.device)
        if rewarded:
            words, worth, earned = self._sampled(batch, features)
            losses = self.parallel(features, words, worth, 0.0, self.config.temperature)
        else:
            known = batch.words.to(self.fabric.device)
            words, earned = dict.fromkeys(self.network.decoders, known), 0.0
            losses = self.parallel(features, words, None, self.config.label_smoothing)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(
            self.parallel, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        lost = float(loss.detach())
        if not math.isfinite(lost):
            raise DivergedError(f"the loss is {lost} at step {self.at.phase_step + 1}: try a smaller learning rate.")
        return lost / len(losses), earned

    def _sampled(self, batch: Batch, features: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
        """Draw sentences from each decoder as it serves, without dropout, and say what each is worth."""
        if self.reward is None:
            raise RuntimeError("the rewards phase was not begun")
        words, worth, earned = {}, {}, []
        self.network.eval()
        with torch.no_grad(), self.fabric.autocast():
            grid = self.network.grid(features)
            for name, decoder in self.network.each():
                words[name] = sample(decoder, grid, self.config.samples, self.config.longest, self.config.temperature)
                worth[name], reward = advantages(words[name], batch.names, self.reward, self.data.vocabulary)
                earned.append(reward)
        self.network.train()
        return words, worth, mean(earned)

    def _set_learning_rates(self, phase: _Phase) -> None:
        """Linear warm-up, then a cosine to a hundredth; stage 5, when it rests, begins its own warm-up later."""
        step, total = self.at.phase_step, phase.epochs * self.steps
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, step / total))) / 2
        peaks = {"decoders": phase.learning_rate, "stage5": phase.encoder_learning_rate}
        for group in self.optimizer.param_groups:
            own = step - (phase.encoder_freeze_epochs * self.steps if group["part"] == "stage5" else 0)
            group["lr"] = peaks[group["part"]] * max(0.0, min(1.0, (own + 1) / max(1, phase.warmup_steps))) * cosine

    def _follow(self) -> None:
        """Move the running average towards the weights; quickly at first, when they are worth little."""
        step = self.at.phase_step
        share = 1 - min(self.config.ema_decay, (1 + step) / (10 + step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), share)

    def _evaluate(self) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, str]]]:
        """Return, for each decoder with the averaged weights, its scores and what it says of the val images."""
        own = _copy(self.network)
        self.network.load_state_dict(self.average)
        self.network.eval()
        scores, said = {}, {}
        val_limit = self.data.corpus.val[: self.config.val_limit or None]
        for name, captioner in captioners(self.network, self.data).items():
            with self.fabric.autocast():
                found = caption_all(captioner, self.network, self.data.val, val_limit, self.fabric.device)
            said[name] = {image: caption.text for image, caption in found.items()}
            scores[name] = score(said[name], self.data.corpus.captions) | {
                "distinct": len(set(said[name].values())),
                "images": len(val_limit),
            }
        self.network.load_state_dict(own)
        return scores, said


def captioners(network: CaptioningNetwork, data: TrainingData) -> dict[str, Captioner]:
    """Return the product's own captioner around each decoder."""
    return {name: Captioner(lambda x: x, decoder, data.vocabulary, Preprocessing()) for name, decoder in network.each()}


def caption_all(
    captioner: Captioner,
    network: CaptioningNetwork,
    features: Features,
    names: tuple[str, ...],
    device: torch.device,
    options: DecodeOptions = DecodeOptions(),  # noqa: B008, a value
) -> dict[str, Caption]:
    """Return what a model says, free-running, about each named image."""
    said: dict[str, Caption] = {}
    kind = next(captioner.decoder.parameters()).dtype
    with torch.inference_mode():
        for start in range(0, len(names), EVALUATED_TOGETHER):
            some = names[start : start + EVALUATED_TOGETHER]
            grid = network.grid(features.get(some).to(device, kind))
            said |= zip(some, captioner.describe(grid, options), strict=True)
    return said


def _optimizer(config: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    kind = torch.optim.NAdam if config.optimizer == "nadam" else torch.optim.RAdam
    return kind(groups, weight_decay=config.weight_decay, decoupled_weight_decay=True)


def _groups(network: CaptioningNetwork) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{"params": list(network.decoders.parameters()), "part": "decoders", "lr": 0.0}]
    if network.stage5 is not None:
        groups.append({"params": list(network.stage5.parameters()), "part": "stage5", "lr": 0.0})
    return groups


def _copy(network: CaptioningNetwork) -> dict[str, Tensor]:
    state: Mapping[str, Tensor] = network.state_dict()
    return {name: value.detach().clone() for name, value in state.items()}
