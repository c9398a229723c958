"""Batches of training images and captions. Their order depends on the seed and the epoch only, so it can be resumed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from captioning.model.vocabulary import END, PAD, START, Vocabulary
from training.config import TrainConfig
from training.data.corpus import Corpus
from training.data.features import Features, is_mirrored
from training.data.tokens import tokenize

_SIDE_WORDS = {"left", "right"}  # a caption with one of them is wrong for the mirrored image


@dataclass(frozen=True)
class TrainingData:
    """A corpus as the training loop reads it."""

    corpus: Corpus
    vocabulary: Vocabulary
    train: Features
    val: Features


@dataclass(frozen=True)
class Example:
    """An image of a batch: the view of it and the captions that an epoch draws for it."""

    name: str
    view: int
    captions: list[list[str]]  # tokenized


@dataclass(frozen=True)
class Batch:
    """The images of one step."""

    names: list[str]  # B images
    views: list[int]
    features: Tensor  # (B, ...) bfloat16, on the CPU
    words: Tensor  # (B x captions of each, T) ids


def batches(
    data: TrainingData, config: TrainConfig, epoch: int, rank: int = 0, ranks: int = 1
) -> "DataLoader[tuple[Example, list[list[int]]]]":
    """Return a loader of an epoch's batches. Of several processes, each gets its share of every batch."""
    return DataLoader(
        _CaptionDataset(data.vocabulary, config.max_length),
        batch_sampler=_EpochSampler(data.corpus, config, epoch, rank, ranks),
        collate_fn=lambda examples: _collate(data.train, examples),
        generator=torch.Generator(),  # not torch's global one: a number drawn from it would change the dropout masks
    )


def steps_of(data: TrainingData, config: TrainConfig, ranks: int = 1) -> int:
    """Return how many batches an epoch has."""
    return len(_EpochSampler(data.corpus, config, 0, 0, ranks))


class _EpochSampler(Sampler[list[Example]]):
    """Draws the batches of an epoch: the order of the images, then for each batch its views and its captions."""

    def __init__(self, corpus: Corpus, config: TrainConfig, epoch: int, rank: int, ranks: int) -> None:
        self.corpus, self.config, self.epoch, self.rank, self.ranks = corpus, config, epoch, rank, ranks

    def __len__(self) -> int:
        full, rest = divmod(len(self.corpus.train), self.config.batch_size)
        return full + (rest >= self.ranks)

    def __iter__(self) -> Iterator[list[Example]]:
        rng = random.Random(f"{self.config.seed}/{self.epoch}")
        names = list(self.corpus.train)
        rng.shuffle(names)
        size = self.config.batch_size
        for start in range(0, len(names), size):
            # the whole batch, so that the random generators of all processes agree
            examples = self._draw(names[start : start + size], rng)
            if len(examples) >= self.ranks:  # a process without a share would make the others wait forever
                yield examples[self.rank :: self.ranks]

    def _draw(self, names: Sequence[str], rng: random.Random) -> list[Example]:
        views = [rng.randrange(self.config.views) for _ in names]
        count, captions = self.config.captions_per_image, self.corpus.captions
        return [
            Example(name, view, choose_captions(captions[name], is_mirrored(view), count, rng))
            for name, view in zip(names, views, strict=True)
        ]


class _CaptionDataset(Dataset[tuple[Example, list[list[int]]]]):
    """Turns the captions of a drawn example into rows of ids."""

    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        self.vocabulary, self.max_length = vocabulary, max_length

    def __getitem__(self, example: Example) -> tuple[Example, list[list[int]]]:
        return example, [self._ids(words) for words in example.captions]

    def _ids(self, words: Sequence[str]) -> list[int]:
        """Return a caption's ids. A truncated one has no end token: a decoder must not learn to stop there."""
        cut = words[: self.max_length]
        return [START, *self.vocabulary.encode(cut), *([END] if len(cut) == len(words) else [])]


def choose_captions(captions: Sequence[str], mirrored: bool, count: int, rng: random.Random) -> list[list[str]]:
    """Choose `count` captions, some more than once when there are fewer, and tokenize them.

    For a mirrored image, captions that mention left or right are avoided, unless all do.
    """
    words = [tokenize(caption) for caption in captions]
    suitable = [w for w in words if not _SIDE_WORDS.intersection(w)] if mirrored else words
    chosen = rng.sample(suitable or words, k=len(suitable or words))
    return [chosen[i % len(chosen)] for i in range(count)]


def _collate(features: Features, examples: Sequence[tuple[Example, list[list[int]]]]) -> Batch:
    names, views = [example.name for example, _ in examples], [example.view for example, _ in examples]
    rows = [torch.tensor(row) for _, group in examples for row in group]
    words = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    return Batch(names, views, features.get(names, views), words)
