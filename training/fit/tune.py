"""Searches learning rate, optimizer and sizes with Optuna (Akiba et al. 2019, arXiv:1907.10902).

The run folder contains the study, an SQLite file, and a folder for each trial. A search that was killed continues
with the trial that it was in.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from captioning.errors import CaptioningError, TrainingDiverged, UsageError
from captioning.terminal import count
from training.config import OPTIMIZERS, TrainConfig
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile
from training.fit.run_dir import complete_config, run_settings
from training.fit.train import run_training

STUDY = "study.sqlite"


def search(
    data: Sequence[DataFolder], encoder: EncoderFile, config: TrainConfig, run: Path, cache: Path, trials: int
) -> dict[str, Any]:
    """Train until the study has `trials` trials; return the settings, the folder and the val CIDEr-D of the best.

    A trial that is worse than half of the others at the same epoch is stopped (the median rule). Raises UsageError when
    the study was started with other settings, CaptioningError when every trial diverged.
    """
    study = _open_study(run, config, encoder, data)

    def objective(trial: optuna.Trial) -> float:
        folder = trial.user_attrs.get("run", f"trial-{trial.number}")
        trial.set_user_attr("run", folder)

        def report(epoch: int, cider: float) -> None:
            trial.report(cider, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        suggestion = suggested(trial, config)
        try:
            about = run_training(data, encoder, suggestion, run / folder, cache, resume=True, on_epoch=report)
        except TrainingDiverged as error:
            raise optuna.TrialPruned(str(error)) from error
        return float(about["cider"])

    done = len(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]))
    if done < trials:
        study.optimize(objective, n_trials=trials - done)
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise CaptioningError(
            f"none of {count(len(study.trials), 'trial')} in {run} finished without diverging: try other settings in"
            " another folder."
        )
    best = study.best_trial
    return {"cider": best.value, "run": str(run / best.user_attrs["run"]), **best.params}


def suggested(trial: optuna.Trial, config: TrainConfig) -> TrainConfig:
    """Return the config of a trial: the given one with the values that are searched."""
    return replace(
        config,
        learning_rate=trial.suggest_float("learning_rate", 2e-4, 5e-3, log=True),
        optimizer=trial.suggest_categorical("optimizer", list(OPTIMIZERS)),  # type: ignore[arg-type]
        hidden_size=trial.suggest_int("hidden_size", 256, 768, step=128),
        memory_size=trial.suggest_int("memory_size", 256, 768, step=128),
        embedding_size=trial.suggest_int("embedding_size", 200, 500, step=100),
    )


def _open_study(run: Path, config: TrainConfig, encoder: EncoderFile, data: Sequence[DataFolder]) -> optuna.Study:
    """Open or create the study; the trial that a killed search was in is tried next."""
    run.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="captionmill",
        storage=f"sqlite:///{run / STUDY}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    base = run_settings(config, encoder, data)["config"] | {"encoder": encoder.digest, "threads": 0}
    if complete_config(study.user_attrs.get("base", base)) != base:
        raise UsageError(f"{run} was started with other settings: repeat the same command with more --trials.")
    study.set_user_attr("base", base)
    seed = config.seed + len(study.trials)  # with the same seed a later call would suggest the same values again
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    for interrupted in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(interrupted.number, state=TrialState.FAIL)
        folder = interrupted.user_attrs.get("run", f"trial-{interrupted.number}")
        study.enqueue_trial(interrupted.params, {"run": folder})
    return study
