"""A training run, from a corpus to the best weights: what the commands `tune` and `train` do."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.model.captioner import Captioner, load_decoder, load_encoder, preprocessing_of
from captioning.model.decoder import CaptionDecoder, DecoderConfig
from captioning.model.vocabulary import Vocabulary
from training.config import TrainConfig
from training.dataset import Corpus, read_corpus
from training.encoders import EncoderFile, save_encoder
from training.features import Depth, Features, cached_features
from training.loop import BEST, LAST, TrainingData, caption_all, fit
from training.metrics import score
from training.network import CaptioningNetwork
from training.text import words_of

ABOUT = "run.json"


def run_training(
    data: Path, encoder: EncoderFile, config: TrainConfig, run: Path, cache: Path, *, resume: bool
) -> dict[str, Any]:
    """Train a decoder, and stage 5 when the config says so; return what is known of the finished run.

    A tuned encoder lands in the run folder, in the form in which it will be shipped.
    """
    _begin(run, config, encoder, resume=resume)
    if config.threads:
        torch.set_num_threads(config.threads)
    corpus = read_corpus(data)
    tuning = config.encoder_learning_rate > 0
    depth: Depth = "stage4" if tuning else "grid"
    prepared = TrainingData(
        corpus,
        Vocabulary.build((words_of(c) for n in corpus.train for c in corpus.captions[n]), config.min_count),
        _features(encoder, corpus, depth, cache, train=True),
        _features(encoder, corpus, depth, cache, train=False),
    )
    torch.manual_seed(config.seed)
    whole = encoder.load().encoder
    shape = DecoderConfig(config.cell, len(prepared.vocabulary), hidden_size=config.hidden_size)
    network = CaptioningNetwork(CaptionDecoder(shape), whole.layer4 if tuning else None)
    reached = fit(network, prepared, config, run, resume=resume)
    network.load_state_dict(load_file(run / BEST))
    if tuning:
        tuned_by = {"config": asdict(config), "val": reached.best, "pictures": corpus.digest}
        save_encoder(whole, encoder.about | {"tuned": tuned_by, "tuned_from": encoder.digest}, run)
    about = {
        "config": asdict(config),
        "decoder": asdict(shape),
        "encoder": {"digest": encoder.digest, **encoder.about},
        "vocabulary": list(prepared.vocabulary.words),
        "best_epoch": reached.best_epoch,
        "val": reached.best,
        "pictures": {"train": len(corpus.train), "val": len(corpus.val), "digest": corpus.digest},
    }
    (run / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    return about


def evaluate_bundle(bundle: Bundle, data: Path, cache: Path) -> dict[str, float]:
    """Return the scores of a bundle on a corpus's val pictures, free-running, with the default beam."""
    corpus = read_corpus(data)
    decoder, vocabulary = load_decoder(bundle)
    preprocessing = preprocessing_of(bundle)
    features = cached_features(
        load_encoder(bundle), bundle.encoder_digest, corpus.pictures, corpus.val, "grid", cache, mirror=False
    )
    captioner = Captioner(lambda x: x, decoder, vocabulary, preprocessing)
    said = caption_all(captioner, features, corpus.val, CaptioningNetwork(decoder, None).eval())
    return score(said, corpus.captions) | {"distinct": len(set(said.values())), "pictures": len(said)}


def _begin(run: Path, config: TrainConfig, encoder: EncoderFile, *, resume: bool) -> None:
    """Make the run folder. Raises UsageError rather than write over a run, or go on with another one."""
    wanted = {"config": asdict(config), "encoder": encoder.digest}
    path = run / "config.json"
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1) + "\n")
    elif not resume:
        raise UsageError(f"{run} holds a run already: add --resume to go on with it, or name another folder.")
    elif json.loads(path.read_text()) != wanted:
        raise UsageError(f"{run} was begun with other settings (see {path.name}); a run is resumed as it was begun.")
    elif not (run / LAST).exists():
        print(f"no checkpoint in {run} yet: beginning anew", file=sys.stderr)


def _features(encoder: EncoderFile, corpus: Corpus, depth: Depth, cache: Path, *, train: bool) -> Features:
    names = corpus.train if train else corpus.val
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{depth} features, {'train' if train else 'val'}", total=None)
        tick: Callable[[int, int], None] = lambda done, of: progress.update(task, completed=done, total=of)  # noqa: E731
        return cached_features(
            encoder.load(), encoder.digest, corpus.pictures, names, depth, cache, mirror=train, tick=tick
        )
