"""Where a run stands, on disk: enough to go on as if nothing had happened."""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from captioning.errors import UsageError
from training.fit.network import CaptioningNetwork

LAST, BEST = "last.pt", "best.safetensors"


@dataclass
class TrainState:
    """All that a resumed run needs besides weights. Random numbers are drawn anew for each epoch, by its number."""

    phase: int = 0
    phase_epoch: int = 0  # epochs of this phase that are done
    phase_step: int = 0  # optimizer steps of it
    best_cider: float = -1.0
    best_epoch: int = 0  # counted from 1 over all phases, as in the log
    log: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch: loss, scores, seconds

    @property
    def best(self) -> dict[str, Any]:
        """What was logged of the best epoch."""
        return self.log[self.best_epoch - 1]


def save_checkpoint(
    run: Path,
    network: CaptioningNetwork,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    at: TrainState,
    precision: Mapping[str, Any],
) -> None:
    """Write the checkpoint of a run, whole or not at all; `precision` is the state of the loss scaler, if any."""
    unfinished = (run / LAST).with_suffix(".part")
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "at": asdict(at),
        "precision": dict(precision),
    }
    torch.save(state, unfinished)
    unfinished.replace(run / LAST)  # a run that dies while saving keeps its last whole checkpoint


def restore_checkpoint(
    run: Path, network: CaptioningNetwork, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> tuple[TrainState, dict[str, Any]]:
    """Put a run where its checkpoint says; return that, and the state of the loss scaler. Raises UsageError."""
    try:
        state = torch.load(run / LAST, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"can't read the checkpoint {run / LAST}: {error}. Begin anew in another folder."
        ) from error
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    for name, value in state["average"].items():
        average[name].copy_(value)
    return TrainState(**state["at"]), state["precision"]


def save_best(run: Path, average: Mapping[str, Tensor]) -> None:
    """Write the weights that are exported, whole or not at all."""
    unfinished = (run / BEST).with_suffix(".part")
    save_file({name: value.contiguous().cpu() for name, value in average.items()}, unfinished)
    unfinished.replace(run / BEST)
