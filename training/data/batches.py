"""Batches of training images and captions. Their order depends on the seed and the epoch only, so it can be resumed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from captioning.model.concepts import Concepts
from captioning.model.vocabulary import END, PAD, START, Vocabulary
from training.config import TrainConfig
from training.data.augmentation import Augmentation, draw_augmentation
from training.data.concepts import ConceptDrawer, class_words
from training.data.corpus import Corpus
from training.data.data_sets import DataSet
from training.data.features import Features, is_mirrored
from training.data.pixel_table import PixelTable
from training.data.texts import Words
from training.data.tokens import tokenize

_SIDE_WORDS = {"left", "right"}  # a caption with one of them is wrong for the mirrored image


ImageSource = Features | PixelTable
"""What the network reads of an image: cached feature maps, or pixels."""


@dataclass(frozen=True)
class TrainingData:
    """A corpus as the training loop reads it."""

    corpus: Corpus
    sets: tuple[DataSet, ...]  # that the corpus consists of
    vocabulary: Vocabulary
    train: ImageSource
    val: ImageSource
    texts: Sequence[Words] = ()  # captions without images


class TextBatch(NamedTuple):
    """Captions without images, of one step."""

    words: Tensor  # (R, T) ids
    concepts: Concepts | None = None  # of each, for decoders that read them

    def to(self, device: torch.device) -> "TextBatch":
        """Return it on a device."""
        concepts = None if self.concepts is None else self.concepts.to(device)
        return TextBatch(self.words.to(device, non_blocking=True), concepts)


@dataclass(frozen=True)
class Example:
    """An image of a batch: how it is shown, and the captions that an epoch draws for it."""

    name: str
    view: int  # of cached features
    captions: list[Sequence[str]]  # tokenized
    augmentation: Augmentation | None = None  # of pixels
    seen: dict[str, float] | None = None  # concepts in the place of those that the classifier sees


@dataclass(frozen=True)
class Batch:
    """The images of one step."""

    names: list[str]  # B images
    views: list[int]
    images: Tensor  # features (B, ...) bfloat16, or pixels (B, S, S, 3) uint8
    words: Tensor  # (B x captions of each, T) ids
    augmentations: list[Augmentation]  # of pixels; none of features, which have views
    swapped: Concepts | None = None  # in the place of what the classifier sees, of images with any weight


def batches(
    data: TrainingData, config: TrainConfig, epoch: int, rank: int = 0, ranks: int = 1
) -> "DataLoader[tuple[Example, list[list[int]]]]":
    """Return a loader of an epoch's batches. Of several processes, each gets its share of every batch.

    With `swapped`, some images have concepts and captions that name another thing than they show.
    """
    drawer = _drawer(data, config) if config.swapped else None
    return DataLoader(
        _CaptionDataset(data.vocabulary, config.max_length),
        batch_sampler=_EpochSampler(data, config, epoch, rank, ranks, drawer),
        collate_fn=lambda examples: _collate(data.train, examples, drawer),
        generator=torch.Generator(),  # not torch's global one: a number drawn from it would change the dropout masks
    )


def text_batches(
    data: TrainingData, config: TrainConfig, epoch: int, rank: int = 0, ranks: int = 1
) -> Iterator[TextBatch | None]:
    """Yield batches of the captions without images, for as long as they are asked for; None if there are none.

    Of several processes, each gets its share of every batch.
    """
    rng = random.Random(f"texts/{config.seed}/{epoch}")
    dataset = _CaptionDataset(data.vocabulary, config.max_length)
    drawer = _drawer(data, config) if config.concepts else None
    while True:
        drawn = rng.sample(data.texts, min(config.text_captions, len(data.texts)))[rank::ranks]
        captions, concepts = drawer.draw(drawn, rng) if drawer and drawn else (drawn, None)
        yield TextBatch(_padded([dataset.ids(caption) for caption in captions]), concepts) if drawn else None


def _drawer(data: TrainingData, config: TrainConfig) -> ConceptDrawer:
    return ConceptDrawer(class_words(), data.vocabulary, config.concepts)


def steps_of(data: TrainingData, config: TrainConfig, ranks: int = 1) -> int:
    """Return how many batches an epoch has."""
    return len(_EpochSampler(data, config, 0, 0, ranks))


class _EpochSampler(Sampler[list[Example]]):
    """Draws the batches of an epoch: the order of the images, then for each batch its views and its captions."""

    def __init__(
        self, data: TrainingData, config: TrainConfig, epoch: int, rank: int, ranks: int,
        drawer: ConceptDrawer | None = None,
    ) -> None:  # fmt: skip
        self.data, self.config, self.epoch, self.rank, self.ranks = data, config, epoch, rank, ranks
        self.drawer = drawer

    def __len__(self) -> int:
        images = sum(_drawn(part) for part in self.data.sets)
        full, rest = divmod(images, self.config.batch_size)
        return full + (rest >= self.ranks)

    def __iter__(self) -> Iterator[list[Example]]:
        rng = random.Random(f"{self.config.seed}/{self.epoch}")
        names = list(chain.from_iterable(_weighted(part, rng) for part in self.data.sets))
        rng.shuffle(names)
        size = self.config.batch_size
        for start in range(0, len(names), size):
            # the whole batch, so that the random generators of all processes agree
            examples = [self._swap(example, rng) for example in self._draw(names[start : start + size], rng)]
            if len(examples) >= self.ranks:  # a process without a share would make the others wait forever
                yield examples[self.rank :: self.ranks]

    def _draw(self, names: Sequence[str], rng: random.Random) -> list[Example]:
        count, captions = self.config.captions_per_image, self.data.corpus.captions
        if isinstance(self.data.train, PixelTable):
            drawn = [draw_augmentation(self.config, rng) for _ in names]
            return [
                Example(name, 0, choose_captions(captions[name], a.mirrored, count, rng), a)
                for name, a in zip(names, drawn, strict=True)
            ]
        views = [rng.randrange(self.config.views) for _ in names]
        return [
            Example(name, view, choose_captions(captions[name], is_mirrored(view), count, rng))
            for name, view in zip(names, views, strict=True)
        ]

    def _swap(self, example: Example, rng: random.Random) -> Example:
        """Return the example, or now and then one with concepts and captions that name another thing."""
        if self.drawer is None or rng.random() >= self.config.swapped:
            return example
        captions, new = self.drawer.swap(example.captions, rng)
        seen = None if new is None else self.drawer.seen([new], rng)
        return replace(example, captions=captions, seen=seen)


def _drawn(part: DataSet) -> int:
    """Return how many images an epoch draws from a data set."""
    return max(1, round(part.weight * len(part.corpus.train)))


def _weighted(part: DataSet, rng: random.Random) -> list[str]:
    """Return the images that an epoch draws: all as often as the weight says, and a random choice for its fraction."""
    names = part.corpus.train
    whole, rest = divmod(_drawn(part), len(names))
    return list(names) * whole + (rng.sample(names, rest) if rest else [])


class _CaptionDataset(Dataset[tuple[Example, list[list[int]]]]):
    """Turns the captions of a drawn example into rows of ids."""

    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        self.vocabulary, self.max_length = vocabulary, max_length

    def __getitem__(self, example: Example) -> tuple[Example, list[list[int]]]:
        return example, [self.ids(words) for words in example.captions]

    def ids(self, words: Sequence[str]) -> list[int]:
        """Return a caption's ids. A truncated one has no end token: a decoder must not learn to stop there."""
        cut = words[: self.max_length]
        return [START, *self.vocabulary.encode(cut), *([END] if len(cut) == len(words) else [])]


@lru_cache(maxsize=100_000)
def _words(caption: str) -> list[str]:
    return tokenize(caption)  # as long as all else that a step does in Python


def choose_captions(captions: Sequence[str], mirrored: bool, count: int, rng: random.Random) -> list[Sequence[str]]:
    """Choose `count` captions, some more than once when there are fewer, and tokenize them.

    For a mirrored image, captions that mention left or right are avoided, unless all do.
    """
    words = [_words(caption) for caption in captions]
    suitable = [w for w in words if not _SIDE_WORDS.intersection(w)] if mirrored else words
    chosen = rng.sample(suitable or words, k=len(suitable or words))
    return [chosen[i % len(chosen)] for i in range(count)]


def _collate(
    source: ImageSource, examples: Sequence[tuple[Example, list[list[int]]]], drawer: ConceptDrawer | None
) -> Batch:
    names, views = [example.name for example, _ in examples], [example.view for example, _ in examples]
    words = _padded([row for _, group in examples for row in group])
    augmentations = [example.augmentation for example, _ in examples if example.augmentation is not None]
    swapped = drawer.table([example.seen or {} for example, _ in examples]) if drawer else None
    return Batch(names, views, source.get(names, views), words, augmentations, swapped)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])
