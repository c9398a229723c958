"""The training loop: cross-entropy, then self-critical training; after each epoch the averaged weights are scored."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import cast

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import Tensor

from captioning.errors import TrainingDiverged
from captioning.model.captioner import Captioner
from captioning.model.pixels import Preprocessing
from captioning.values import Caption, DecodeOptions
from training.config import TrainConfig
from training.data.batches import Batch, TrainingData, batches, steps_of
from training.data.features import Features
from training.data.tokens import tokenize
from training.evaluate.metrics import score
from training.fit.checkpoints import BEST, LAST, TrainState, restore_checkpoint, save_best, save_checkpoint
from training.fit.network import CaptioningNetwork
from training.fit.optimization import Phase, make_average, make_optimizer, make_scheduler, phases_of
from training.fit.run_log import RunLog
from training.fit.self_critical import CiderReward, advantages, sample

CAPTIONED_AT_ONCE = 100  # images
OnEpoch = Callable[[int, float], None]
"""Called with the number of an epoch, from 1, and its val CIDEr."""


def fit(
    fabric: Fabric,
    network: CaptioningNetwork,
    data: TrainingData,
    config: TrainConfig,
    run: Path,
    *,
    resume: bool,
    on_epoch: OnEpoch = lambda epoch, cider: None,
) -> TrainState:
    """Train; keep `last.pt` after each epoch and `best.safetensors` of the epoch with the best val CIDEr (beam 3),
    or of the last one with `keep_last`.

    Self-critical training starts from the best weights of the cross-entropy phase. With several decoders the mean of
    their CIDErs counts. A phase ends early after `patience` epochs without a better one. `on_epoch` is called when an
    epoch is saved; an exception from it ends the run. Raises TrainingDiverged.
    """
    loop = _Loop(fabric, network, data, config, run)
    if resume and (run / LAST).exists():
        loop.restore()
    for index, phase in enumerate(phases_of(config)):
        if phase.epochs and index >= loop.state.phase:
            loop.run(index, phase, on_epoch)
    if fabric.is_global_zero:
        loop.run_log.draw_curves(loop.state.log)
    return loop.state


class _Loop:
    """The objects of one run that change during it."""

    def __init__(
        self, fabric: Fabric, network: CaptioningNetwork, data: TrainingData, config: TrainConfig, run: Path
    ) -> None:
        self.fabric, self.network, self.data, self.config, self.folder = fabric, network, data, config, run
        self.state = TrainState()
        self.steps = steps_of(data, config, fabric.world_size)  # per epoch
        self.run_log = RunLog(run, data.corpus)
        self.reward: CiderReward | None = None
        self.parallel, self.optimizer = fabric.setup(network, make_optimizer(config, network))
        self.average = make_average(network, config.ema_decay, fabric.device)

    def restore(self) -> None:
        self.state, precision = restore_checkpoint(self.folder, self.network, self.optimizer, self.average)
        self.fabric.strategy.precision.load_state_dict(precision)

    def run(self, index: int, phase: Phase, on_epoch: OnEpoch) -> None:
        """Run the remaining epochs of a phase."""
        if index > self.state.phase:
            self._start_phase(index)
        if phase.name == "scst":
            for _, decoder in self.network.each():
                decoder.scale_dropout(self.config.scst_dropout)
            captions = self.data.corpus.captions
            self.reward = CiderReward({n: [tokenize(text) for text in captions[n]] for n in self.data.corpus.train})
        self.scheduler = make_scheduler(self.optimizer, phase, self.steps, self.state.phase_step)
        while self.state.phase_epoch < phase.epochs and not self._out_of_patience():
            self._epoch(phase)
            on_epoch(len(self.state.log), self.state.log[-1]["cider"])

    def _start_phase(self, index: int) -> None:
        """Continue from the best weights so far, with a fresh optimizer and a fresh average."""
        self.state.phase, self.state.phase_epoch, self.state.phase_step = index, 0, 0
        if self.state.best_epoch:
            self.network.load_state_dict(load_file(self.folder / BEST))
        self.average = make_average(self.network, self.config.ema_decay, self.fabric.device)
        self.optimizer.state.clear()
        self._save()  # from now on the best weights may be of this phase, which must not start from them

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            precision = self.fabric.strategy.precision.state_dict()
            save_checkpoint(self.folder, self.network, self.optimizer, self.average, self.state, precision)
        self.fabric.barrier()

    def _out_of_patience(self) -> bool:
        since_best = min(self.state.phase_epoch, len(self.state.log) - self.state.best_epoch)
        return bool(self.config.patience) and since_best >= self.config.patience

    def _epoch(self, phase: Phase) -> None:
        started, state = time.monotonic(), self.state
        number = len(state.log) + 1
        # hash() of numbers is the same in every process
        torch.manual_seed(hash((self.config.seed, number, self.fabric.global_rank)))
        loss, reward = self._train(phase, number)
        state.phase_epoch += 1
        scores, captions = self._evaluate() if self.fabric.is_global_zero else ({}, {})
        scores = self.fabric.broadcast(scores)
        cider = mean(s["cider"] for s in scores.values())
        if cider > state.best_cider or self.config.keep_last:
            state.best_cider, state.best_epoch = cider, number
        entry = {"epoch": number, "phase": phase.name, "loss": round(loss, 4), "cider": round(cider, 4)}
        entry |= {"reward": round(reward, 4)} if phase.name == "scst" else {}
        state.log.append(entry | {"seconds": round(time.monotonic() - started), "val": scores})
        if self.fabric.is_global_zero:
            if state.best_epoch == number:
                save_best(self.folder, self.average)
            self.run_log.write(state.log, captions)
        self._save()  # last: a run that resumes from it finds the other files

    def _train(self, phase: Phase, number: int) -> tuple[float, float]:
        """Train for one epoch; return the means, over its steps, of the loss and the reward."""
        self.network.train()
        sums = torch.zeros(2)
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
            TimeRemainingColumn(), TextColumn("{task.fields[shown]}"),
        )  # fmt: skip
        bar = Progress(*columns, console=Console(stderr=True), disable=not self.fabric.is_global_zero)
        loader = batches(self.data, self.config, number, self.fabric.global_rank, self.fabric.world_size)
        with bar:
            task = bar.add_task(f"epoch {number}, {phase.name}", total=self.steps, shown="")
            for steps, batch in enumerate(loader, start=1):
                sums += torch.tensor(self._step(batch, scst=phase.name == "scst"))
                loss, reward = (sums / steps).tolist()
                shown = f"reward {reward:.3f}" if phase.name == "scst" else f"loss {loss:.3f}"
                bar.update(task, advance=1, shown=shown)
        return loss, reward

    def _step(self, batch: Batch, *, scst: bool) -> tuple[float, float]:
        """Take one optimizer step; return its loss and its mean reward, means over the decoders."""
        features = batch.features.to(self.fabric.device)
        reward = 0.0
        if scst:
            words, advantage, reward = self._sample(batch, features)
            losses = self.parallel(features, words, advantage, 0.0, self.config.temperature)
        else:
            words = dict.fromkeys(self.network.decoders, batch.words.to(self.fabric.device))
            losses = self.parallel(features, words, None, self.config.label_smoothing)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(
            self.parallel, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.scheduler.step()
        self.state.phase_step += 1
        total = float(loss.detach())
        if not math.isfinite(total):
            raise TrainingDiverged(f"the loss is {total} at step {self.state.phase_step}: try a smaller learning rate.")
        self.average.update_parameters(self.network)
        return total / len(losses), reward

    def _sample(self, batch: Batch, features: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
        """Sample captions from each decoder, without dropout; return them, their advantages and the mean reward."""
        if self.reward is None:
            raise RuntimeError("the scst phase has not started")
        words, advantage, rewards = {}, {}, []
        self.network.eval()
        with torch.no_grad(), self.fabric.autocast():
            grid = self.network.grid(features)
            for name, decoder in self.network.each():
                words[name] = sample(
                    decoder, grid, self.config.samples, self.config.max_length, self.config.temperature
                )
                advantage[name], reward = advantages(words[name], batch.names, self.reward, self.data.vocabulary)
                rewards.append(reward)
        self.network.train()
        return words, advantage, mean(rewards)

    def _evaluate(self) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, str]]]:
        """Return the scores and the captions of the val images, by decoder, with the averaged weights."""
        network = cast("CaptioningNetwork", self.average.module)
        names = self.data.corpus.val[: self.config.val_limit or None]
        scores, captions = {}, {}
        for decoder, captioner in captioners(network, self.data).items():
            with self.fabric.autocast():
                found = caption_all(captioner, self.data.val, names, self.fabric.device)
            captions[decoder] = {name: caption.text for name, caption in found.items()}
            distinct = len(set(captions[decoder].values()))
            scores[decoder] = score(captions[decoder], self.data.corpus.captions) | {
                "distinct": distinct,
                "images": len(names),
            }
        return scores, captions


def captioners(network: CaptioningNetwork, data: TrainingData) -> dict[str, Captioner]:
    """Return the product's captioner for each decoder. They encode cached features instead of pixels."""
    return {
        name: Captioner(network.grid, decoder, data.vocabulary, Preprocessing()) for name, decoder in network.each()
    }


def caption_all(
    captioner: Captioner,
    features: Features,
    names: tuple[str, ...],
    device: torch.device,
    options: DecodeOptions = DecodeOptions(),  # noqa: B008, a value
) -> dict[str, Caption]:
    """Return the caption of each named image, by beam search on its cached features."""
    captions: dict[str, Caption] = {}
    dtype = next(captioner.decoder.parameters()).dtype
    with torch.inference_mode():
        for start in range(0, len(names), CAPTIONED_AT_ONCE):
            batch = names[start : start + CAPTIONED_AT_ONCE]
            grid = captioner.encode(features.get(batch).to(device, dtype))
            captions |= zip(batch, captioner.caption_features(grid, options), strict=True)
    return captions
