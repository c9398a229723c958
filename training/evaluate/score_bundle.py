"""Captions and scores of a bundle on a corpus, computed as the product does: image files, `Captioner`, captions."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.model.captioner import Captioner
from captioning.model.pixels import Pixels, open_image
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.values import Caption, DecodeOptions
from training.data.corpus import Corpus
from training.data.data_sets import DataSet
from training.evaluate.diversity import diversity_and_bias, invention
from training.evaluate.metrics import more_scores, score
from training.evaluate.naming import IMAGES, naming_rates, read_naming
from training.evaluate.score_sets import cider_interval, score_sets
from training.progress import Tick

BATCH = 32


def evaluate_bundle(
    bundle: Bundle,
    corpus: Corpus,
    sets: Sequence[DataSet],
    split: str = "val",
    options: DecodeOptions = DecodeOptions(),  # noqa: B008, a value
    *,
    cache: Path | None = None,
    spice: bool = False,
    tick: Tick = lambda done, total: None,
) -> tuple[dict[str, Any], dict[str, Caption]]:
    """Return the scores of a bundle on a split of data sets, and its captions. Raises UsageError when there are none.

    `sets` are the data sets that `corpus` consists of. CIDEr-D has a 95 % confidence interval, `cider_interval`.

    `cache` is a folder in which converted encoders are kept, as in `load_captioner`.
    """
    names: Sequence[str] = getattr(corpus, split)
    if not names:
        raise UsageError(f"the corpus in {corpus.image_folder} has no {split} split.")
    captioner = load_captioner(bundle, choose_runtime(), cache)
    captions = caption_images(captioner, corpus.image_folder, names, options, tick)

    def scores_of(texts: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        interval = {"cider_interval": list(cider_interval(texts, references))}
        return all_scores(texts, references, spice=spice) | invention(texts, references) | interval

    return score_sets(_by_set(captions, sets, split), corpus.captions, scores_of), captions


def int8_cider(
    bundle: Bundle, corpus: Corpus, sets: Sequence[DataSet], cache: Path, tick: Tick = lambda done, total: None
) -> float:
    """Return the CIDEr-D of a bundle on the val split of data sets, its encoder in int8. Raises BundleError."""
    captioner = load_captioner(bundle, choose_runtime("openvino", "cpu", "int8"), cache)
    captions = caption_images(captioner, corpus.image_folder, corpus.val, DecodeOptions(), tick)
    return float(score_sets(_by_set(captions, sets, "val"), corpus.captions)["cider"])


def _by_set(captions: Mapping[str, Caption], sets: Sequence[DataSet], split: str) -> dict[str, dict[str, str]]:
    """Return the texts of captions by data set and image."""
    names = {part.name: getattr(part.corpus, split) for part in sets}
    return {name: {image: captions[image].text for image in images} for name, images in names.items() if images}


def evaluate_naming(
    bundle: Bundle,
    folder: Path,
    options: DecodeOptions = DecodeOptions(),  # noqa: B008, a value
    *,
    cache: Path | None = None,
    tick: Tick = lambda done, total: None,
) -> tuple[dict[str, Any], dict[str, Caption]]:
    """Return the naming rates of a bundle on the labelled images of a folder, and its captions.

    `classifier_alone` is the rate of the classifier's most probable word without a caption, where the model has one:
    what captions could reach. ImageNet's labels are its home ground.
    """
    labels = read_naming(folder)
    captioner = load_captioner(bundle, choose_runtime(), cache)
    words: dict[str, str] = {}

    def look(names: Sequence[str], features: Tensor) -> None:
        if captioner.classifier is not None:
            surest = captioner.classifier.probabilities(features).argmax(1).tolist()
            words.update(zip(names, (captioner.classifier.phrases[i] for i in surest), strict=True))

    captions = caption_images(captioner, folder / IMAGES, list(labels), options, tick, look)
    rates = naming_rates({name: caption.text for name, caption in captions.items()}, labels)
    if words:
        alone = naming_rates(words, labels)
        rates |= {"classifier_alone": alone["named"], "classifier_alone_without_dogs": alone["without_dogs"]}
    return rates, captions


def caption_images(
    captioner: Captioner,
    folder: Path,
    names: Sequence[str],
    options: DecodeOptions,
    tick: Tick = lambda done, total: None,
    look: Callable[[Sequence[str], Tensor], None] = lambda names, features: None,
) -> dict[str, Caption]:
    """Return the caption of each named image in `folder`. `look` is called with each batch's features (B, N, F)."""
    captions: dict[str, Caption] = {}
    with ThreadPoolExecutor(2) as readers:
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            images = list(readers.map(lambda name: _open(folder / name, captioner.preprocessing.size), batch))
            with torch.inference_mode():
                features = captioner.encode(torch.from_numpy(np.stack(images)))
                look(batch, features)
                captions |= zip(batch, captioner.caption_features(features, options), strict=True)
            tick(len(captions), len(names))
    return captions


def all_scores(
    texts: Mapping[str, str], references: Mapping[str, Sequence[str]], *, spice: bool = False
) -> dict[str, float]:
    """Return every score that this machine can compute, and the number of images."""
    scores = score(texts, references) | more_scores(texts, references, spice=spice)
    return scores | {"distinct": len(set(texts.values())), "images": len(texts)}


def diversity_of(captions: Mapping[str, Caption], corpus: Corpus) -> dict[str, float]:
    """Return the diversity and bias of a model's captions of a corpus's images."""
    training_captions = {name: corpus.captions[name] for name in corpus.train}
    return diversity_and_bias({n: c.text for n, c in captions.items()}, corpus.captions, training_captions)


def _open(path: Path, size: int) -> Pixels:
    return open_image(path.read_bytes(), size)[0]
