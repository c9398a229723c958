"""What moves the weights: the phases of a run, the optimizer, its learning rates and the moving average."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from training.config import OptimizerName, TrainConfig
from training.fit.network import CaptioningNetwork

_LOWEST = 0.01  # where the cosine ends, as a fraction of the peak
_OPTIMIZERS: dict[OptimizerName, Any] = {
    "adamw": torch.optim.AdamW,
    "nadam": partial(torch.optim.NAdam, decoupled_weight_decay=True),
    "radam": partial(torch.optim.RAdam, decoupled_weight_decay=True),
}


@dataclass(frozen=True)
class Phase:
    """One of the two parts of a run, with its own learning rates."""

    name: Literal["cross_entropy", "scst"]
    epochs: int
    learning_rate: float
    encoder_learning_rate: float
    warmup_steps: int
    encoder_freeze_epochs: int

    def learns_encoder(self, epoch: int) -> bool:
        """Return whether the encoder learns in an epoch of this phase, from 0."""
        return self.encoder_learning_rate > 0 and epoch >= self.encoder_freeze_epochs


def phases_of(config: TrainConfig) -> tuple[Phase, Phase]:
    """Return the phases of a run, in order. One with 0 epochs is skipped."""
    return (
        Phase("cross_entropy", config.epochs, config.learning_rate, config.encoder_learning_rate, config.warmup_steps,
              config.encoder_freeze_epochs),
        Phase("scst", config.scst_epochs, config.scst_learning_rate, config.scst_encoder_learning_rate,
              config.warmup_steps // 4, 0),
    )  # fmt: skip


def make_optimizer(config: TrainConfig, network: CaptioningNetwork) -> torch.optim.Optimizer:
    """Return an optimizer with a parameter group for the decoders, and one for the trunk when the encoder is tuned."""
    groups: list[dict[str, Any]] = [{"params": list(network.decoders.parameters()), "part": "decoders", "lr": 0.0}]
    if network.trunk is not None:
        groups.append({"params": list(network.trunk.tuned.parameters()), "part": "trunk", "lr": 0.0})
    optimizer: torch.optim.Optimizer = _OPTIMIZERS[config.optimizer](groups, weight_decay=config.weight_decay)
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, phase: Phase, steps: int, done: int) -> LambdaLR:
    """Return the scheduler of a phase with `steps` optimizer steps per epoch, of which `done` are done.

    The learning rate rises linearly to its peak, under a cosine that falls to 1 % over the phase. The trunk starts
    later when it is frozen at first. One LambdaLR is enough for both groups. A SequentialLR would start the cosine
    after the warm-up, and would have one start for both.
    """
    peaks = {"decoders": phase.learning_rate, "trunk": phase.encoder_learning_rate}
    factors: list[Callable[[int], float]] = []
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = peaks[group["part"]]
        start = phase.encoder_freeze_epochs * steps if group["part"] == "trunk" else 0
        factors.append(partial(_factor, start=start, warmup=phase.warmup_steps, total=phase.epochs * steps))
    return LambdaLR(optimizer, factors, last_epoch=done - 1)


def _factor(step: int, *, start: int, warmup: int, total: int) -> float:
    """Return the learning rate at a step, as a fraction of the peak; 0 before `start`."""
    rise = max(0.0, min(1.0, (step - start + 1) / max(1, warmup)))
    return rise * (_LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2)


def make_average(network: CaptioningNetwork, decay: float, device: torch.device) -> AveragedModel:
    """Return an exponential moving average (EMA) of the weights, which starts as a copy of them."""
    update = partial(_update_average, decay=decay)
    average = AveragedModel(network, device, multi_avg_fn=update, use_buffers=True)
    average.n_averaged.fill_(1)  # the copy counts; at 0 the first update would copy the weights instead of averaging
    average.eval()
    return average


def _update_average(average: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int, decay: float) -> None:
    """Move the average towards the weights, faster during the first updates, when the average is worth little."""
    if not average[0].is_floating_point():  # the counters of batch norm; the list has one type
        return
    done = int(updates)
    torch._foreach_lerp_(list(average), list(weights), 1 - min(decay, (1 + done) / (10 + done)))  # one kernel on a GPU
