"""A training run, from a corpus to the best weights: what the command `train` does."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file

from captioning.errors import UsageError
from captioning.model.decoder import DecoderConfig, make_decoder
from captioning.model.vocabulary import Vocabulary
from captioning.values import digest_of
from training.config import TrainConfig
from training.data.batches import TrainingData
from training.data.corpus import Corpus, broken_images, read_corpus
from training.data.encoders import EncoderFile, save_encoder
from training.data.features import Depth, Features, cached_features, files_of
from training.data.tokens import words_of
from training.fit.checkpoints import BEST
from training.fit.loop import fit
from training.fit.network import CaptioningNetwork
from training.fit.run_dir import begin, check_begun, wanted_of, write_text_atomic
from training.fit.trained import ABOUT, Start, open_start


def run_training(
    data: Path,
    encoder: EncoderFile,
    config: TrainConfig,
    run: Path,
    cache: Path,
    *,
    resume: bool,
    devices: int = 1,
    on_epoch: Callable[[int, float], None] = lambda epoch, cider: None,
) -> dict[str, Any]:
    """Train decoders, and stage 5 when the config says so; return what is known of the finished run.

    A tuned encoder lands in the run folder, in the form in which it will be shipped. `devices` GPUs (or, without
    one, processes) share each batch.
    """
    wanted, first = wanted_of(config, encoder), "LOCAL_RANK" not in os.environ  # not a process that this one will start
    if first:
        check_begun(run, wanted, resume=resume)
    if config.threads:
        torch.set_num_threads(config.threads)
    tuning = config.encoder_learning_rate > 0
    start = open_start(Path(config.start)) if config.start else None
    prepared = prepare(data, encoder, config, cache, start)  # by the first alone; the others find its files
    if first:
        begin(run, wanted, prepared.corpus)
    fabric = open_fabric(devices)
    torch.manual_seed(config.seed)
    whole = encoder.load().encoder if tuning else None
    shapes = {cell: shape_of(config, cell, len(prepared.vocabulary)) for cell in config.cells}
    network = CaptioningNetwork({cell: make_decoder(shape) for cell, shape in shapes.items()}, whole and whole.layer4)
    if start:
        _go_on_with(network, start)
    reached = fit(fabric, network, prepared, config, run, resume=resume, on_epoch=on_epoch)
    if not fabric.is_global_zero:
        return {}
    settings = asdict(config) | {"start": Path(config.start).name}
    about = {
        "config": settings,
        "decoders": {cell: asdict(shape) for cell, shape in shapes.items()},
        "encoder": {"digest": encoder.digest, **encoder.about},
        "vocabulary": list(prepared.vocabulary.words),
        "best_epoch": reached.best_epoch,
        "val": reached.best["val"],
        "cider": reached.best["cider"],
        "seconds": sum(line["seconds"] for line in reached.log),
        "images": images_of(prepared.corpus),
    }
    if start:
        about["start"] = start.about
    if whole is not None:
        network.load_state_dict(load_file(run / BEST))
        tuned_by = {"config": settings, "val": reached.best["val"], "images": prepared.corpus.digest}
        tuned = save_encoder(whole, encoder.about | {"tuned": tuned_by, "tuned_from": encoder.digest}, run)
        about["encoder"] = {"digest": tuned.digest, **tuned.about}
    write_text_atomic(run / ABOUT, json.dumps(about, indent=1) + "\n")
    return about


def open_fabric(devices: int = 1) -> Fabric:
    """Return what places tensors and chooses precision: bf16 where the hardware has it, else fp16 or fp32."""
    if torch.cuda.is_available():
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    else:
        precision = "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"
    fabric = Fabric(accelerator="auto", devices=devices, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def prepare(
    data: Path, encoder: EncoderFile, config: TrainConfig, cache: Path, start: Start | None = None
) -> TrainingData:
    """Read a corpus and what the encoder sees of it; the words are those of `start`, else the corpus's own."""
    corpus = open_corpus(data, cache, config.limit)
    depth: Depth = "stage4" if config.encoder_learning_rate > 0 else "grid"
    written = (words_of(c) for n in corpus.train for c in corpus.captions[n])
    return TrainingData(
        corpus,
        start.vocabulary if start else Vocabulary.build(written, config.min_count),
        features_of(encoder, corpus, corpus.train, depth, cache, config.views),
        features_of(encoder, corpus, corpus.val, depth, cache),
    )


def open_corpus(data: Path, cache: Path, limit: int = 0) -> Corpus:
    """Read a corpus and leave out images that can't be opened; what is left out is counted and listed, once."""
    corpus = read_corpus(data)
    key = digest_of([files_of(corpus.images, names) for names in (corpus.train, corpus.val, corpus.test)])[:20]
    known, listed = cache / f"broken-{key}.json", cache / f"left-out-{key}.txt"
    if known.exists():
        corpus = corpus.without(json.loads(known.read_text()))
    else:
        cache.mkdir(parents=True, exist_ok=True)
        with _progress("opening every image") as tick:
            broken = broken_images(corpus, tick)
        corpus = corpus.without(broken)
        listed.write_text("".join(f"{line}\n" for line in corpus.left_out))
        known.write_text(json.dumps(broken))
        if corpus.left_out:
            print(f"left out {len(corpus.left_out)} lines and images of {data}: see {listed}", file=sys.stderr)
    if not corpus.train or not corpus.val:
        raise UsageError(
            f"{data} has {len(corpus.train)} images to learn from and {len(corpus.val)} to choose by; it needs both."
        )
    return corpus.first(limit)


def shape_of(config: TrainConfig, cell: str, words: int) -> DecoderConfig:
    """Return the shape of a run's decoder."""
    sizes = {name: getattr(config, name) for name in ("memory_size", "hidden_size", "embedding_size")}
    usual = DecoderConfig(cell, words, config.kind, **sizes)  # type: ignore[arg-type]
    drops = ("feature_dropout", "embedding_dropout", "output_dropout")
    return replace(usual, **{name: getattr(usual, name) * config.dropout for name in drops})


def images_of(corpus: Corpus) -> dict[str, Any]:
    """Return what a bundle says of the images it learned from."""
    return {"train": len(corpus.train), "val": len(corpus.val), "digest": corpus.digest}


def _go_on_with(network: CaptioningNetwork, start: Start) -> None:
    """Give decoders the weights of others. Raises UsageError when those have another shape."""
    for cell, decoder in network.each():
        if cell not in start.decoders:
            raise UsageError(f"there is no {cell} to go on with, only {' and '.join(start.decoders)}: see --cell.")
        ours, theirs = (
            {name: tuple(t.shape) for name, t in d.state_dict().items()} for d in (decoder, start.decoders[cell])
        )
        if ours != theirs:
            other = next(n for n in sorted(ours | theirs) if ours.get(n) != theirs.get(n))
            raise UsageError(
                f"the {cell} to go on with has another kind or size: {other} is {theirs.get(other)}, not"
                f" {ours.get(other)}. Give --kind and sizes as it was trained."
            )
        decoder.load_state_dict(start.decoders[cell].state_dict())


def features_of(
    encoder: EncoderFile, corpus: Corpus, names: tuple[str, ...], depth: Depth, cache: Path, views: int = 1
) -> Features:
    """Return what the encoder sees of images, from the cache or computed now, with progress on stderr."""
    with _progress(f"{depth} features of {len(names)} images") as tick:
        return cached_features(
            encoder.load, encoder.digest, corpus.images, names, depth, cache, views=views, tick=tick
        )


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)
