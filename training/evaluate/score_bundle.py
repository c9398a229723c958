"""What a bundle says of a corpus's images, by the product's own path: files, `Captioner`, captions."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from captioning.bundles import Bundle
from captioning.errors import UsageError
from captioning.model.captioner import Captioner
from captioning.model.pixels import Pixels, open_image
from captioning.model.runtime import choose, load_captioner
from captioning.values import Caption, DecodeOptions
from training.data.corpus import Corpus
from training.evaluate.diversity import habits
from training.evaluate.metrics import more_scores, score

BATCH = 32
Tick = Callable[[int, int], None]


def captions_of(
    captioner: Captioner,
    folder: Path,
    names: Sequence[str],
    options: DecodeOptions,
    tick: Tick = lambda done, of: None,
) -> dict[str, Caption]:
    """Return the caption of each named image in `folder`; `tick(done, of)` is called as they come."""
    said: dict[str, Caption] = {}
    with ThreadPoolExecutor(2) as readers:
        for start in range(0, len(names), BATCH):
            some = names[start : start + BATCH]
            images = list(readers.map(lambda name: _open(folder / name, captioner.preprocessing.size), some))
            said |= zip(some, captioner.caption(images, options), strict=True)
            tick(len(said), len(names))
    return said


def evaluate_bundle(
    bundle: Bundle,
    corpus: Corpus,
    split: str = "val",
    options: DecodeOptions = DecodeOptions(),  # noqa: B008, a value
    *,
    spice: bool = False,
    tick: Tick = lambda done, of: None,
) -> tuple[dict[str, float], dict[str, Caption]]:
    """Return the scores of a bundle on a split of a corpus, and its captions. Raises UsageError for an empty split."""
    names: Sequence[str] = getattr(corpus, split)
    if not names:
        raise UsageError(f"the corpus in {corpus.images} has no {split} split.")
    said = captions_of(load_captioner(bundle, choose()), corpus.images, names, options, tick)
    texts = {name: caption.text for name, caption in said.items()}
    return all_scores(texts, corpus.captions, spice=spice), said


def all_scores(
    texts: Mapping[str, str], references: Mapping[str, Sequence[str]], *, spice: bool = False
) -> dict[str, float]:
    """Return every score that this machine can compute, and of how many images."""
    scores = score(texts, references) | more_scores(texts, references, spice=spice)
    return scores | {"distinct": len(set(texts.values())), "images": len(texts)}


def habits_of(said: Mapping[str, Caption], corpus: Corpus) -> dict[str, float]:
    """Return how a model speaks, beside what the scores see."""
    taught = {name: corpus.captions[name] for name in corpus.train}
    return habits({name: caption.text for name, caption in said.items()}, corpus.captions, taught)


def _open(path: Path, size: int) -> Pixels:
    return open_image(path.read_bytes(), size)[0]
