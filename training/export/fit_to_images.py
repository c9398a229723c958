"""What a bundle knows of the images that its model learned from: their principal components, people and dogs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from captioning.atomic import replacing
from captioning.model.likeness import Likeness
from captioning.model.pixels import Preprocessing, open_image
from captioning.model.precision import best_precision
from captioning.model.presence import Presence
from captioning.model.runtime import optimize_for_inference
from captioning.values import PREPROCESSING_VERSION, digest_of
from captioning.word_groups import THINGS
from training.data.corpus import Corpus, file_versions
from training.data.data_sets import DataSet
from training.data.encoders import EncoderFile
from training.data.features import table_file
from training.data.tokens import tokenize
from training.progress import Tick

COMPONENTS = 128
_FAR = 0.05  # share of the val images that are far from the training images
_STRENGTH = 1e-3  # inverse of the regularization: of 1e-4 to 1e-2 the best on Flickr8k's and COCO's dev images
_BATCH = 32


class MeanFeatures:
    """The mean feature vectors of a corpus's images, from the cache or computed when they are asked for."""

    def __init__(
        self, encoder: EncoderFile, corpus: Corpus, cache: Path, tick: Tick = lambda done, total: None
    ) -> None:
        self.corpus, self._encoder, self._cache, self._tick = corpus, encoder, cache, tick
        self._known: dict[tuple[str, ...], Tensor] = {}

    def of(self, names: tuple[str, ...]) -> Tensor:
        """Return those of some images: (images, 2048)."""
        if names not in self._known:
            self._known[names] = self._read(names)
        return self._known[names]

    def _read(self, names: tuple[str, ...]) -> Tensor:
        """Return the means of a table of grid features if training has left one, otherwise a smaller table's rows."""
        folder, cache = self.corpus.image_folder, self._cache
        grids = table_file(self._encoder.digest, folder, names, "grid", cache)
        if grids.exists():
            table = np.load(grids, mmap_mode="r")
            parts = (table[i : i + _BATCH].astype(np.float32).mean(1) for i in range(0, len(names), _BATCH))
            return torch.from_numpy(np.concatenate(list(parts)))
        key = digest_of([self._encoder.digest, file_versions(folder, names), PREPROCESSING_VERSION])[:20]
        kept = cache / f"means-{key}.npy"
        if not kept.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with replacing(kept) as unfinished, unfinished.open("wb") as file:
                np.save(file, self._compute(names))
        return torch.from_numpy(np.load(kept))

    def _compute(self, names: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network, size = (
            optimize_for_inference(self._encoder.load(), device, best_precision(device)),
            Preprocessing().size,
        )
        rows = []
        with torch.inference_mode():
            for start in range(0, len(names), _BATCH):
                files = [self.corpus.image_folder / name for name in names[start : start + _BATCH]]
                pixels = np.stack([open_image(file.read_bytes(), size)[0] for file in files])
                rows.append(network(torch.from_numpy(pixels).to(device)).float().mean(1).cpu().numpy())
                self._tick(start + len(files), len(names))
        return np.concatenate(rows)


def fit_likeness(means: MeanFeatures) -> Likeness:
    """Fit what tells unlike images to the training images; 1 in 20 of the val images is then far."""
    train, val = means.of(means.corpus.train), means.corpus.val
    likeness = Likeness.fit(train, max(1, min(COMPONENTS, len(train) - 1)))
    distances = likeness(means.of(val).unsqueeze(1)) if val else likeness(train.unsqueeze(1))
    likeness.limit.copy_(torch.quantile(distances, 1 - _FAR).clamp(min=1e-6))
    return likeness


def fit_presence(means: MeanFeatures, sets: Sequence[DataSet]) -> Presence:
    """Fit what tells people and dogs to the training images: they are there if a reference mentions them.

    All data sets count alike.
    """
    corpus, presence = means.corpus, Presence(means.of(means.corpus.train).size(1))
    features = means.of(corpus.train).numpy()
    spread = features.std(0) + 1e-6
    size_of = {name: len(part.corpus.train) for part in sets for name in part.corpus.train}
    weights = np.array([len(features) / size_of[name] / len(sets) for name in corpus.train])
    for row, words in enumerate(THINGS.values()):
        there = np.array([any(words & set(tokenize(text)) for text in corpus.captions[name]) for name in corpus.train])
        if there.all() or not there.any():  # nothing to learn from: as probable everywhere
            presence.linear.weight[row].data.zero_()
            presence.linear.bias[row].data.fill_(10.0 if there.all() else -10.0)
            continue
        fitted = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(features / spread, there, sample_weight=weights)
        presence.linear.weight[row].data.copy_(torch.from_numpy(fitted.coef_[0] / spread))
        presence.linear.bias[row].data.fill_(float(fitted.intercept_[0]))
    return presence
