"""Executes the runs of a comparison, several at once in child processes, and evaluates each. Every step resumes."""

import json
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from captioning.atomic import write_text
from captioning.errors import CaptioningError, UsageError
from captioning.model.captioner import Captioner
from captioning.model.vocabulary import Vocabulary
from captioning.values import Caption
from training.compare.plan import PlannedRun
from training.data.batches import ImageSource, TrainingData
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile
from training.evaluate.metrics import cider_of_each, score
from training.evaluate.score_bundle import all_scores, diversity_of
from training.fit.checkpoints import LAST
from training.fit.run_dir import CONFIG, captions_digest, run_settings, started_with
from training.fit.run_log import LOG
from training.fit.train import run_training
from training.fit.trained import ABOUT, best_network
from training.fit.validate import caption_all, captioners
from training.processes import begin_child

EVALUATION = "evaluation.json"
_CPU = torch.device("cpu")
_WORDNET_LOCK = threading.Lock()  # NLTK's reader of WordNet is not safe for threads


@dataclass(frozen=True)
class EvaluationSet:
    """Images on which runs are scored."""

    names: tuple[str, ...]
    images: ImageSource


@dataclass(frozen=True)
class FinishedRun:
    """A run with its results on an evaluation set."""

    arm: str
    seed: int
    rate: float
    folder: Path
    seconds: float
    log: list[dict[str, Any]]
    scores: dict[str, float]
    diversity: dict[str, float]
    captions: dict[str, str]  # by image
    ciders: dict[str, float]  # CIDEr-D by image


@dataclass(frozen=True)
class Executor:
    """Trains and evaluates planned runs, `jobs` of them at once, each with the same data and encoder."""

    data: Sequence[DataFolder]
    encoder: EncoderFile
    cache: Path
    prepared: TrainingData
    jobs: int

    def finish_all(self, runs: Sequence[PlannedRun], evaluation_set: EvaluationSet) -> list[FinishedRun]:
        """Train and evaluate what is not done yet; return all runs in their order. Raises CaptioningError."""
        console = Console(stderr=True)
        children = ProcessPoolExecutor(  # spawned, because torch's threads do not survive a fork
            self.jobs, mp_context=get_context("spawn"), initializer=begin_child
        )

        def train(run: PlannedRun) -> Future[None]:
            return children.submit(_train, self.data, self.encoder, self.cache, run)

        finished = []
        with Progress(console=console) as progress, children, ThreadPoolExecutor(self.jobs) as threads:
            task = progress.add_task("training runs", total=len(runs))
            for run in threads.map(lambda run: self._finish(run, train, evaluation_set), runs):
                finished.append(run)
                progress.advance(task)
                cider, seconds = run.scores["cider"], run.seconds
                console.print(f"{run.arm}, rate {run.rate:g}, seed {run.seed}: CIDEr-D {cider:.4f}, {seconds:.0f} s")
        return finished

    def _finish(
        self, run: PlannedRun, train: Callable[[PlannedRun], Future[None]], evaluation_set: EvaluationSet
    ) -> FinishedRun:
        config_file = run.folder / CONFIG
        if config_file.exists() and not started_with(config_file, run_settings(run.config, self.encoder, self.data)):
            raise UsageError(
                f"{run.folder} belongs to a comparison with other settings: use its settings, or another folder."
            )
        if not (run.folder / ABOUT).exists():
            try:
                train(run).result()
            except BrokenProcessPool:
                raise CaptioningError(
                    f"a training process was killed while {run.folder.name} ran or waited, perhaps for lack of memory:"
                    " try fewer --jobs. The same command resumes from the last epochs."
                ) from None
        folder = self.prepared.corpus.image_folder
        if json.loads(config_file.read_text()).get("captions") != captions_digest(self.prepared.corpus):
            raise UsageError(
                f"{run.folder} was trained on other images or captions than {folder} has now: use another folder."
            )
        about = json.loads((run.folder / ABOUT).read_text())
        log = [json.loads(line) for line in (run.folder / LOG).read_text().splitlines()]
        results = self._results(run, evaluation_set)
        config = run.config
        return FinishedRun(run.arm, config.seed, config.learning_rate, run.folder, about["seconds"], log, **results)

    def _results(self, run: PlannedRun, evaluation_set: EvaluationSet) -> dict[str, Any]:
        """Return a run's results on an evaluation set, from its folder if they are there."""
        path = run.folder / EVALUATION
        if path.exists():
            results: dict[str, Any] = json.loads(path.read_text())
            if set(results["captions"]) == set(evaluation_set.names):
                return results
        results = self._evaluate(run, evaluation_set)
        write_text(path, json.dumps(results) + "\n")
        return results

    def _evaluate(self, run: PlannedRun, evaluation_set: EvaluationSet) -> dict[str, Any]:
        corpus = self.prepared.corpus
        captions = captions_of_run(run.folder, self.prepared, evaluation_set)
        texts = {name: caption.text for name, caption in captions.items()}
        with _WORDNET_LOCK:
            scores = (score if run.is_tuning else all_scores)(texts, corpus.captions)
        return {
            "scores": scores,
            "diversity": diversity_of(captions, corpus),
            "captions": texts,
            "ciders": {name: round(value, 5) for name, value in cider_of_each(texts, corpus.captions).items()},
        }


def _train(data: Sequence[DataFolder], encoder: EncoderFile, cache: Path, run: PlannedRun) -> None:
    """Train a run in a child process, from its last checkpoint if it has one. All its output goes to a log file."""
    run.folder.mkdir(parents=True, exist_ok=True)
    log = run.folder / "output.log"
    with log.open("a") as output:
        for stream in (1, 2):  # the descriptors, so that the output of C libraries goes there too
            os.dup2(output.fileno(), stream)
    try:
        run_training(data, encoder, run.config, run.folder, cache, resume=True)
    except CaptioningError as error:
        raise CaptioningError(f"training {run.folder.name}: {error} (full output: {log})") from None
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        raise CaptioningError(f"training {run.folder.name}: {message} (full output: {log})") from None
    (run.folder / LAST).unlink(missing_ok=True)  # a large file that only a resumed training reads


def captioner_of(run: Path, prepared: TrainingData) -> Captioner:
    """Return the captioner of a finished run with one decoder. It takes cached grid features."""
    about, network = best_network(run)
    words = Vocabulary(tuple(about["vocabulary"]))  # a decoder that reads concepts knows their words too
    return next(iter(captioners(network, replace(prepared, vocabulary=words)).values()))


def captions_of_run(run: Path, prepared: TrainingData, evaluation_set: EvaluationSet) -> dict[str, Caption]:
    """Return the captions of a finished run by image."""
    captioner = {"run": captioner_of(run, prepared)}
    return caption_all(captioner, evaluation_set.images, evaluation_set.names, _CPU)["run"]
