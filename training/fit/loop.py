"""The training loop: cross-entropy, then self-critical training; after each epoch the averaged weights are scored."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
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
from training.config import TrainConfig
from training.data.batches import Batch, TextBatch, TrainingData, batches, steps_of, text_batches
from training.data.pixel_table import PixelTable
from training.data.tokens import tokenize
from training.fit.checkpoints import BEST, LAST, TrainState, restore_checkpoint, save_best, save_checkpoint
from training.fit.cider_reward import Penalties
from training.fit.classifier import Classifier
from training.fit.network import CaptioningNetwork
from training.fit.optimization import Phase, make_average, make_optimizer, make_scheduler, phases_of
from training.fit.rewards import Rewards, processes_for
from training.fit.run_log import RunLog
from training.fit.self_critical import advantages, captions_of, sample
from training.fit.validate import Scores, Texts, validate

_STEPS_BETWEEN_LOOKS = 5  # at the loss: each makes a GPU wait for the CPU
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
    classifier: Classifier | None = None,
    on_epoch: OnEpoch = lambda epoch, cider: None,
) -> TrainState:
    """Train; keep `last.pt` after each epoch and `best.safetensors` of the epoch with the best val CIDEr (beam 3),
    or of the last one with `keep_last`.

    Self-critical training starts from the best weights of the cross-entropy phase. With several decoders the mean of
    their CIDErs counts. A phase ends early after `patience` epochs without a better one. `on_epoch` is called when an
    epoch is saved; an exception from it ends the run. While the encoder learns, it keeps the classes of `classifier`.
    Raises TrainingDiverged.
    """
    loop = _Loop(fabric, network, data, config, run, classifier)
    if resume and (run / LAST).exists():
        loop.restore()
    # opened at once: its processes read the references while cross-entropy trains
    with loop.open_rewards() if config.scst_epochs else nullcontext() as loop.rewards:
        for index, phase in enumerate(phases_of(config)):
            if phase.epochs and index >= loop.state.phase:
                loop.run(index, phase, on_epoch)
    if fabric.is_global_zero:
        loop.run_log.draw_curves(loop.state.log)
    return loop.state


class _Loop:
    """The objects of one run that change during it."""

    def __init__(
        self, fabric: Fabric, network: CaptioningNetwork, data: TrainingData, config: TrainConfig, run: Path,
        classifier: Classifier | None,
    ) -> None:  # fmt: skip
        if isinstance(data.train, PixelTable):
            data = replace(data, train=data.train.on(fabric.device))
        self.fabric, self.network, self.data, self.config, self.folder = fabric, network, data, config, run
        self.state = TrainState()
        self.steps = steps_of(data, config, fabric.world_size)  # per epoch
        self.run_log = RunLog(run, data.corpus)
        self.rewards: Rewards | None = None
        self.classifier = None if classifier is None else classifier.to(fabric.device)
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
        self.scheduler = make_scheduler(self.optimizer, phase, self.steps, self.state.phase_step)
        while self.state.phase_epoch < phase.epochs and not self._out_of_patience():
            self._epoch(phase)
            on_epoch(len(self.state.log), self.state.log[-1]["cider"])

    def open_rewards(self) -> Rewards:
        """Return what computes the rewards of self-critical training."""
        captions, config = self.data.corpus.captions, self.config
        references = {name: [tokenize(text) for text in captions[name]] for name in self.data.corpus.train}
        penalties = Penalties(config.repeat_penalty, config.invention_penalty)
        return Rewards(references, penalties, processes_for(config.reward_processes))

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
        loss, reward, same_class = self._train(phase, number)
        state.phase_epoch += 1
        scores, captions = self._validate() if self.fabric.is_global_zero else ({}, {})
        scores = self.fabric.broadcast(scores)
        cider = mean(s["cider"] for s in scores.values())
        if cider > state.best_cider or self.config.keep_last:
            state.best_cider, state.best_epoch = cider, number
        entry = {"epoch": number, "phase": phase.name, "loss": round(loss, 4), "cider": round(cider, 4)}
        entry |= {"reward": round(reward, 4)} if phase.name == "scst" else {}
        entry |= {"same_class": round(same_class, 4)} if self.classifier else {}
        state.log.append(entry | {"seconds": round(time.monotonic() - started), "val": scores})
        if self.fabric.is_global_zero:
            if state.best_epoch == number:
                save_best(self.folder, self.average)
            self.run_log.write(state.log, captions)
        self._save()  # last: a run that resumes from it finds the other files

    def _train(self, phase: Phase, number: int) -> tuple[float, ...]:
        """Train for one epoch; return the means, over its steps, of what `_step` returns."""
        self.network.train()
        sums = torch.zeros(3, device=self.fabric.device)
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
            TimeRemainingColumn(), TextColumn("{task.fields[shown]}"),
        )  # fmt: skip
        bar = Progress(*columns, console=Console(stderr=True), disable=not self.fabric.is_global_zero)
        share = (self.fabric.global_rank, self.fabric.world_size)
        loader = batches(self.data, self.config, number, *share)
        texts = text_batches(self.data, self.config, number, *share)
        with bar:
            task = bar.add_task(f"epoch {number}, {phase.name}", total=self.steps, shown="")
            for steps, batch in enumerate(loader, start=1):
                sums += self._step(batch, phase, None if phase.name == "scst" else next(texts))
                if steps % _STEPS_BETWEEN_LOOKS == 0 or steps == self.steps:
                    loss, reward, same_class = (sums / steps).tolist()
                    self._require_finite(loss)
                    shown = f"reward {reward:.3f}" if phase.name == "scst" else f"loss {loss:.3f}"
                    bar.update(task, completed=steps, shown=shown)
        return loss, reward, same_class

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            step = self.state.phase_step
            raise TrainingDiverged(f"the loss is {loss} at step {step} or before: try a smaller learning rate.")

    def _step(self, batch: Batch, phase: Phase, texts: TextBatch | None) -> Tensor:
        """Take one optimizer step; return three numbers on the device.

        They are the loss and the mean reward, means over the decoders, and the share of images that have the same class
        as before the encoder was tuned, where it learns with a classifier.
        """
        learns = phase.learns_encoder(self.state.phase_epoch)
        with nullcontext() if learns else torch.no_grad(), self.fabric.autocast():
            images = batch.images.to(self.fabric.device, non_blocking=True)
            maps = self.network.maps(images, batch.augmentations, self.config.train_size)
            grid = self.network.read(maps)
        reward = 0.0
        if phase.name == "scst":
            words, advantage, reward = self._sample(batch, grid.detach())
            losses = self.parallel(grid, words, advantage)
        else:
            words = dict.fromkeys(self.network.decoders, batch.words.to(self.fabric.device, non_blocking=True))
            texts = None if texts is None else texts.to(self.fabric.device)
            swapped = None if batch.swapped is None else batch.swapped.to(self.fabric.device)
            losses = self.parallel(grid, words, None, texts, swapped)
        loss = captions_loss = torch.stack(list(losses.values())).sum()
        same_class = loss.new_tensor(0.0)
        if self.classifier is not None and learns:
            divergence, same_class = self.classifier(maps, grid)
            loss = captions_loss + self.config.classifier_weight * divergence
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(
            self.parallel, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.scheduler.step()
        self.state.phase_step += 1
        self.average.update_parameters(self.network)
        return torch.stack([captions_loss.detach() / len(losses), loss.new_tensor(reward), same_class])

    def _sample(self, batch: Batch, grid: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
        """Sample captions from each decoder, without dropout; return them, their advantages and the mean reward."""
        if self.rewards is None:
            raise RuntimeError("the run has no scst phase")
        words, waiting, config = {}, {}, self.config
        self.network.eval()
        # autocast would convert the weights again for every word, which takes longer than the arithmetic on a GPU
        with torch.no_grad(), nullcontext() if grid.is_cuda else self.fabric.autocast():
            grid = grid.float() if grid.is_cuda else grid
            concepts = self.network.concepts(grid)
            for name, decoder in self.network.each():
                words[name] = sample(decoder, grid, concepts, config.samples, config.max_length, config.temperature)
                captions = captions_of(words[name], batch.names, self.data.vocabulary)
                waiting[name] = self.rewards.submit(captions)  # computed while the next decoder samples
        self.network.train()
        rewards = {name: collect() for name, collect in waiting.items()}
        images = len(batch.names)
        advantage = {name: advantages(found, images).to(self.fabric.device) for name, found in rewards.items()}
        return words, advantage, mean(map(mean, rewards.values()))

    def _validate(self) -> tuple[Scores, Texts]:
        """Return the scores and the captions of the val images, by decoder, with the averaged weights."""
        network = cast("CaptioningNetwork", self.average.module)
        return validate(network, self.data, self.config.val_limit, self.fabric)
