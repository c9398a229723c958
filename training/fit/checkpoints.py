"""Checkpoints: all that a run needs to continue as if it had not stopped, and the best weights."""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from captioning.atomic import replacing
from captioning.errors import UsageError

LAST, BEST = "last.pt", "best.safetensors"


@dataclass
class TrainState:
    """What a resumed run needs besides tensors. The random generators are seeded anew for each epoch."""

    phase: int = 0  # index
    phase_epoch: int = 0  # epochs of this phase that are done
    phase_step: int = 0  # optimizer steps of this phase that are done
    best_cider: float = -1.0
    best_epoch: int = 0  # from 1, over all phases, as in the log; 0: none yet
    log: list[dict[str, Any]] = field(default_factory=list)  # one entry per epoch: loss, scores, seconds

    @property
    def best(self) -> dict[str, Any]:
        """The log entry of the best epoch."""
        return self.log[self.best_epoch - 1]


def save_checkpoint(
    run: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel,
    state: TrainState,
    precision: Mapping[str, Any],
) -> None:
    """Write the checkpoint of a run. `precision` is the state of the loss scaler, empty without one."""
    checkpoint = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict(),
        "state": asdict(state),
        "precision": dict(precision),
    }
    with replacing(run / LAST) as unfinished, unfinished.open("wb") as file:
        torch.save(checkpoint, file)  # torch refuses the temporary name itself, because it starts with a dot


def restore_checkpoint(
    run: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel
) -> tuple[TrainState, dict[str, Any]]:
    """Load the checkpoint of a run; return its state and that of the loss scaler.

    Raises UsageError when the file cannot be read or does not fit the network.
    """
    try:
        checkpoint = torch.load(run / LAST, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(f"cannot read the checkpoint {run / LAST}: {error}. Start again in another folder.") from error
    try:
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        average.load_state_dict(checkpoint["average"])
        return TrainState(**checkpoint["state"]), checkpoint["precision"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"the checkpoint {run / LAST} is of another version and does not fit. Start again in another folder."
        ) from error


def save_best(run: Path, average: AveragedModel) -> None:
    """Write the averaged weights, which are exported."""
    with replacing(run / BEST) as unfinished:
        save_file({name: value.contiguous().cpu() for name, value in average.module.state_dict().items()}, unfinished)
