"""A search for learning rate, optimizer and sizes with Optuna (Akiba et al. 2019, arXiv:1907.10902).

The study lies in the run folder as SQLite, each trial in a folder beside it. A search that was killed goes on with
the trial that it was in.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from captioning.errors import CaptioningError, UsageError
from training.config import OPTIMIZERS, TrainConfig
from training.data.encoders import EncoderFile
from training.fit.loop import DivergedError
from training.fit.run_dir import wanted_of
from training.fit.train import run_training

STUDY = "study.sqlite"


def search(
    data: Path, encoder: EncoderFile, config: TrainConfig, run: Path, cache: Path, trials: int
) -> dict[str, Any]:
    """Train until the study has `trials` of them; return the best one's settings, folder and val CIDEr-D.

    A trial that is worse than half of the others at the same epoch is given up (the median rule).
    """
    run.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="captionmill",
        storage=f"sqlite:///{run / STUDY}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    base = wanted_of(config, encoder)["config"] | {"encoder": encoder.digest, "threads": 0}
    if study.user_attrs.get("base", base) != base:
        raise UsageError(f"{run} was begun with other settings; the same words, with more --trials, go on.")
    study.set_user_attr("base", base)
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))  # else it repeats itself
    for cut in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(cut.number, state=TrialState.FAIL)
        study.enqueue_trial(cut.params, {"run": cut.user_attrs.get("run", f"trial-{cut.number}")})

    def objective(trial: optuna.Trial) -> float:
        folder = trial.user_attrs.get("run", f"trial-{trial.number}")
        trial.set_user_attr("run", folder)

        def watch(epoch: int, cider: float) -> None:
            trial.report(cider, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        settings = suggested(trial, config)
        try:
            about = run_training(data, encoder, settings, run / folder, cache, resume=True, on_epoch=watch)
        except DivergedError as far:
            raise optuna.TrialPruned(str(far)) from far
        return float(about["cider"])

    done = len(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]))
    if done < trials:
        study.optimize(objective, n_trials=trials - done)
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise CaptioningError(f"none of the {len(study.trials)} trials in {run} came to an end: every one diverged.")
    best = study.best_trial
    return {"cider": best.value, "run": str(run / best.user_attrs["run"]), **best.params}


def suggested(trial: optuna.Trial, config: TrainConfig) -> TrainConfig:
    """Return the settings of a trial: those of the config, but for what is searched."""
    return replace(
        config,
        learning_rate=trial.suggest_float("learning_rate", 2e-4, 5e-3, log=True),
        optimizer=trial.suggest_categorical("optimizer", list(OPTIMIZERS)),
        hidden_size=trial.suggest_int("hidden_size", 256, 768, step=128),
        memory_size=trial.suggest_int("memory_size", 256, 768, step=128),
        embedding_size=trial.suggest_int("embedding_size", 200, 500, step=100),
    )
