"""The order in which images and captions are shown: a function of the seed and the epoch, so it can be resumed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.model.vocabulary import END, PAD, START, Vocabulary
from training.config import TrainConfig
from training.data.corpus import Corpus
from training.data.features import Features, is_mirrored
from training.data.tokens import words_of

_MIRROR_BLIND = {"left", "right"}  # words that a mirrored image makes untrue


@dataclass(frozen=True)
class TrainingData:
    """A corpus as the loop reads it."""

    corpus: Corpus
    vocabulary: Vocabulary
    train: Features
    val: Features


@dataclass(frozen=True)
class Batch:
    """Some images, how each is seen, and what is said of them."""

    names: list[str]  # B images
    views: list[int]
    words: Tensor  # (B x captions, T) ids


def batches(data: TrainingData, config: TrainConfig, epoch: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """Yield an epoch's batches; of several processes, each gets its share of every batch."""
    chance = random.Random(f"{config.seed}/{epoch}")
    names = list(data.corpus.train)
    chance.shuffle(names)
    for start in range(0, len(names), config.images):
        some = names[start : start + config.images]
        views = [chance.randrange(config.views) for _ in some]
        rows = [_rows(data, name, view, config, chance) for name, view in zip(some, views, strict=True)]
        if len(some) < ranks:
            continue  # a last batch that can't be shared would leave a process waiting for ever
        mine = slice(rank, None, ranks)
        yield Batch(some[mine], views[mine], _table([row for group in rows[mine] for row in group]))


def steps_of(data: TrainingData, config: TrainConfig, ranks: int = 1) -> int:
    """Return how many batches an epoch has."""
    whole, rest = divmod(len(data.corpus.train), config.images)
    return whole + (rest >= ranks)


def _rows(data: TrainingData, name: str, view: int, config: TrainConfig, chance: random.Random) -> list[list[int]]:
    sentences = choose_sentences(data.corpus.captions[name], is_mirrored(view), config.captions, chance)
    rows = []
    for words in sentences:
        cut = words[: config.longest]
        rows.append([START, *data.vocabulary.encode(cut), *([END] if len(cut) == len(words) else [])])
    return rows


def choose_sentences(captions: Sequence[str], mirrored: bool, count: int, chance: random.Random) -> list[list[str]]:
    """Choose `count` captions, again from the start when there are fewer; none that a mirror makes untrue."""
    words = [words_of(caption) for caption in captions]
    fit_both = [w for w in words if not _MIRROR_BLIND.intersection(w)] if mirrored else words
    chosen = chance.sample(fit_both or words, k=len(fit_both or words))
    return [chosen[i % len(chosen)] for i in range(count)]


def _table(rows: list[list[int]]) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows))), PAD)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)
    return table
