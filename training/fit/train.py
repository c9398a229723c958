"""A training run, from a corpus to the best weights: what `training train` does."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from captioning.atomic import remove_unfinished, write_text
from captioning.environment import is_spawned_rank
from captioning.errors import UsageError
from captioning.model.concepts import ConceptClassifier
from captioning.model.decoder import OF_WORDS, DecoderConfig, make_decoder
from captioning.model.encoder import ResNetEncoder
from captioning.model.precision import Precision, best_precision
from captioning.model.vocabulary import Vocabulary
from training.config import TrainConfig
from training.data.batches import ImageSource, TrainingData
from training.data.concepts import class_words
from training.data.corpus import Corpus
from training.data.data_sets import DataFolder, DataSet, open_data
from training.data.encoders import EncoderFile, save_encoder
from training.data.features import Depth, features_of
from training.data.pixel_table import pixels_of
from training.data.texts import read_texts
from training.data.tokens import tokenize
from training.fit.checkpoints import BEST, TrainState
from training.fit.classifier import Classifier, open_head
from training.fit.distill import distilled
from training.fit.loop import OnEpoch, fit
from training.fit.network import CaptioningNetwork
from training.fit.run_dir import check_resumable, record_start, run_settings
from training.fit.trained import ABOUT, Start, open_start
from training.fit.trunk import FrozenStages, Trunk

_MIXED: dict[Precision, Literal["bf16-mixed", "16-mixed", "32-true"]] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp32": "32-true",
}
"""Fabric's names: weights stay in float32, and the arithmetic is in the named type where it is safe."""


def run_training(
    data: Sequence[DataFolder],
    encoder: EncoderFile,
    config: TrainConfig,
    run: Path,
    cache: Path,
    *,
    resume: bool,
    texts: Sequence[Path] = (),
    devices: int = 1,
    on_epoch: OnEpoch = lambda epoch, cider: None,
) -> dict[str, Any]:
    """Train decoders, and the encoder when the config says so; return the description of the finished run.

    A tuned encoder is written to the run folder, in the form that bundles ship. `devices` GPUs, or processes when there
    is no GPU, share each batch; the processes besides the first return an empty description. `texts` are files with
    captions that have no image, one a line.
    """
    start = open_start(Path(config.start)) if config.start else None
    if start and start.concepts and not config.concepts:  # decoders that read concepts go on with them
        config = replace(config, concepts=start.concepts)
    wanted = run_settings(config, encoder, data)
    if not is_spawned_rank():
        check_resumable(run, wanted, resume=resume)
        if resume:  # a run that was killed while it saved left a file as large as a checkpoint
            remove_unfinished(run)
    if config.threads:
        torch.set_num_threads(config.threads)
    classifier = _classifier(encoder, config) if config.classifier and config.encoder_learning_rate else None
    prepared = prepare(
        data, encoder, config, cache, start, texts
    )  # before the other processes start: they find the cache
    if not is_spawned_rank():
        record_start(run, wanted, prepared)
    fabric = open_fabric(devices)
    torch.manual_seed(config.seed)
    shapes: dict[str, DecoderConfig] = {c: shape_of(config, c, len(prepared.vocabulary)) for c in config.cells}
    decoders = {cell: make_decoder(shape) for cell, shape in shapes.items()}
    tuned = encoder.load().encoder if config.encoder_learning_rate > 0 else None
    concepts = _concepts(config, prepared.vocabulary, start) if config.concepts else None
    trunk = None if tuned is None else _trunk(tuned, encoder, config)
    network = CaptioningNetwork(decoders, trunk, concepts, config)
    if start:
        _load_start(network, start)
    if config.distilled:
        prepared = distilled(network, prepared, fabric.device)
    state = fit(fabric, network, prepared, config, run, resume=resume, classifier=classifier, on_epoch=on_epoch)
    if not fabric.is_global_zero:
        return {}
    about = _description(encoder, config, prepared, shapes, start, state)
    if tuned is not None:
        network.load_state_dict(load_file(run / BEST))
        about["encoder"] = _save_tuned(tuned, encoder, run, about)
    write_text(run / ABOUT, json.dumps(about, indent=1) + "\n")
    return about


def open_fabric(devices: int = 1) -> Fabric:
    """Return what places tensors, chooses their precision and starts the other processes."""
    cuda = torch.cuda.is_available()
    precision = _MIXED[best_precision("cuda" if cuda else "cpu")]
    if cuda:
        torch.set_float32_matmul_precision("high")  # of sampling and beam search, which are in float32
    # the encoder's first epochs leave its parameters unused
    strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
    fabric = Fabric(accelerator="auto", devices=devices, precision=precision, strategy=strategy)
    fabric.launch()
    return fabric


def prepare(
    data: Sequence[DataFolder],
    encoder: EncoderFile,
    config: TrainConfig,
    cache: Path,
    start: Start | None = None,
    texts: Sequence[Path] = (),
) -> TrainingData:
    """Read the data sets, and their pixels or the encoder's features of them.

    The vocabulary is that of `start`, or built from the training captions and those without images.
    """
    corpus, sets = open_data(data, cache, config.limit)
    text_words = read_texts(texts, corpus) if texts else []
    captions = (tokenize(text) for name in corpus.train for text in corpus.captions[name])
    vocabulary = _vocabulary(chain(captions, text_words), config, start.vocabulary if start else None)
    train: ImageSource
    val: ImageSource
    if config.tune_from:
        train, val = pixels_of(corpus, corpus.train, cache), pixels_of(corpus, corpus.val, cache)
    else:
        depth: Depth = "stage4" if config.encoder_learning_rate > 0 else "grid"
        train = features_of(encoder, corpus, corpus.train, depth, cache, config.views)
        val = features_of(encoder, corpus, corpus.val, depth, cache)
    return TrainingData(corpus, sets, vocabulary, train, val, text_words)


def _vocabulary(captions: Iterable[Sequence[str]], config: TrainConfig, start: Vocabulary | None) -> Vocabulary:
    """Return the words of a run: those of its start, those that are common in the captions, those of the concepts."""
    if start and not config.new_words:
        return start
    concepts = chain.from_iterable(class_words()) if config.concepts else ()
    spelled = (phrase.split() for phrase in concepts for _ in range(config.min_count))  # though no caption has them
    built = Vocabulary.build(chain(captions, spelled), config.min_count)
    return built if start is None else Vocabulary(tuple(dict.fromkeys((*start.words, *built.words))))


def _trunk(tuned: ResNetEncoder, encoder: EncoderFile, config: TrainConfig) -> Trunk:
    """Return the stages of the encoder that learn, behind the frozen ones when the run learns from pixels."""
    first = config.tune_from or "layer4"
    return Trunk(tuned, first, FrozenStages(encoder.load(), first) if config.tune_from else None)


def _classifier(encoder: EncoderFile, config: TrainConfig) -> Classifier:
    return Classifier(open_head(Path(config.classifier)), encoder, config.tune_from or "layer4")


def _concepts(config: TrainConfig, vocabulary: Vocabulary, start: Start | None) -> ConceptClassifier:
    """Return what sees the concepts: the given classifier, or that of the start.

    Raises UsageError when there is none, or its classes are not ImageNet's.
    """
    phrases = class_words()
    head = open_head(Path(config.classifier)) if config.classifier else start.head if start else None
    if head is None:
        raise UsageError(f"{config.start} has no classifier for concepts={config.concepts}: add --classifier FILE.")
    if head.out_features != len(phrases):
        raise UsageError(
            f"{config.classifier} has {head.out_features} classes; concepts need ImageNet's {len(phrases)}."
        )
    classifier = ConceptClassifier(head.in_features, phrases, vocabulary, config.concepts)
    classifier.head = head
    return classifier


def shape_of(config: TrainConfig, cell: str, vocabulary_size: int) -> DecoderConfig:
    """Return the kind and the sizes of a run's decoder."""
    sizes = {name: getattr(config, name) for name in ("memory_size", "hidden_size", "embedding_size", "concepts")}
    usual = DecoderConfig(cell, vocabulary_size, config.kind, **sizes)  # type: ignore[arg-type]
    dropouts = ("feature_dropout", "embedding_dropout", "output_dropout")
    return replace(usual, **{name: getattr(usual, name) * config.dropout for name in dropouts})


def _description(
    encoder: EncoderFile,
    config: TrainConfig,
    prepared: TrainingData,
    shapes: dict[str, DecoderConfig],
    start: Start | None,
    state: TrainState,
) -> dict[str, Any]:
    """Return what run.json says; most of it goes into bundles."""
    about = {
        "config": asdict(config) | _names_of_files(config),
        "decoders": {cell: asdict(shape) for cell, shape in shapes.items()},
        "encoder": {"digest": encoder.digest, **encoder.about},
        "vocabulary": list(prepared.vocabulary.words),
        "best_epoch": state.best_epoch,
        "val": state.best["val"],
        "cider": state.best["cider"],
        "seconds": sum(entry["seconds"] for entry in state.log),
        "images": _image_counts(prepared.corpus, prepared.sets),
    }
    if config.concepts:
        about["concepts"] = [", ".join(phrases) for phrases in class_words()]
    if prepared.texts:
        about["texts"] = len(prepared.texts)
    return about | ({"start": start.about} if start else {})


def _names_of_files(config: TrainConfig) -> dict[str, str]:
    """Return the fields that are paths, without their folders: bundles contain no paths."""
    return {name: Path(getattr(config, name)).name for name in ("start", "classifier")}


def _image_counts(corpus: Corpus, sets: Sequence[DataSet]) -> dict[str, Any]:
    """Return what a bundle says of the images that it was trained on."""
    of_sets = [
        {"name": part.name, "weight": part.weight, "train": len(part.corpus.train), "val": len(part.corpus.val),
         "digest": part.digest}
        for part in sets
    ]  # fmt: skip
    return {"train": len(corpus.train), "val": len(corpus.val), "digest": corpus.digest, "sets": of_sets}


def _save_tuned(tuned: ResNetEncoder, encoder: EncoderFile, run: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the tuned encoder to the run folder; return its description."""
    history = {"config": about["config"], "val": about["val"], "images": about["images"]["digest"]}
    file = save_encoder(tuned, encoder.about | {"tuned": history, "tuned_from": encoder.digest}, run)
    return {"digest": file.digest, **file.about}


def _load_start(network: CaptioningNetwork, start: Start) -> None:
    """Load the weights of trained decoders. Words and concepts that they lack keep their first weights.

    Raises UsageError when a decoder is missing or has another shape.
    """
    for cell, decoder in network.each():
        if cell not in start.decoders:
            trained = " and ".join(start.decoders)
            raise UsageError(f"--start has no {cell} decoder, only {trained}: change --cell.")
        weights, given = decoder.state_dict(), start.decoders[cell].state_dict()
        words = start.decoders[cell].config.vocabulary_size
        for name, tensor in given.items():
            wanted = weights.get(name)
            grown = name in OF_WORDS and wanted is not None and len(wanted) >= words
            if wanted is None or (wanted[:words] if grown else wanted).shape != tensor.shape:
                raise UsageError(
                    f"the {cell} decoder of --start has another kind or size: {name} is {tuple(tensor.shape)}, not"
                    f" {None if wanted is None else tuple(wanted.shape)}. Give --kind and sizes as it was trained."
                )
            (wanted[:words] if grown else wanted).copy_(tensor)
        missing = weights.keys() - given.keys()
        if any(not name.startswith("concepts.") for name in missing):
            raise UsageError(
                f"the {cell} decoder of --start has no {min(missing)}. Give --kind and sizes as it was trained."
            )
