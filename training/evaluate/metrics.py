"""Scores of captions, by the programs that papers use.

BLEU (NLTK, corpus level), ROUGE-L and CIDEr-D (pycocoevalcap), METEOR 1.5 (its own Java program, where Java is
installed), SPICE on request. All take raw references (not mapped to the vocabulary) and one caption an image, both
tokenized by `tokenize`. NLTK's METEOR is a different measure, about twice as large, and has its own name.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from nltk.translate.meteor_score import meteor_score
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioning.errors import UsageError
from training.data.tokens import tokenize

_SMOOTHING = SmoothingFunction(epsilon=1e-9).method1  # captions without a common 4-gram score 0, without a warning

Captions = Mapping[str, str]  # by image
References = Mapping[str, Sequence[str]]


def score(captions: Captions, references: References) -> dict[str, float]:
    """Return bleu1..bleu4 (corpus level, closest length), rouge_l and cider: from 0 to 1, CIDEr to 10.

    CIDEr takes its document frequencies from the references given, so it is comparable on the same images only.
    """
    names, hypotheses, truths = _tokenized(captions, references)
    scores = {f"bleu{n}": _bleu(hypotheses, truths, names, n) for n in (1, 2, 3, 4)}
    scores["rouge_l"] = float(Rouge().compute_score(truths, hypotheses)[0])
    scores["cider"] = float(Cider().compute_score(truths, hypotheses)[0])
    return {name: round(value, 4) for name, value in scores.items()}


def cider_of_each(captions: Captions, references: References) -> dict[str, float]:
    """Return the CIDEr-D of every image; their mean is the CIDEr-D of all."""
    names, hypotheses, truths = _tokenized(captions, references)
    _, each = Cider().compute_score(truths, hypotheses)
    # the scorer returns them in the order of the references
    return dict(zip(names, map(float, each), strict=True))


def more_scores(captions: Captions, references: References, *, spice: bool = False) -> dict[str, float]:
    """Return the slower scores that this machine can compute: meteor, meteor_nltk, and spice when asked for.

    Raises UsageError when SPICE is asked for and Java is not installed.
    """
    names, hypotheses, truths = _tokenized(captions, references)
    scores: dict[str, float] = {}
    if has_java():
        scores |= _meteor(truths, hypotheses)
    if (wordnet := _wordnet()) is not None:
        each = [meteor_score([t.split() for t in truths[n]], hypotheses[n][0].split(), wordnet=wordnet) for n in names]
        scores["meteor_nltk"] = sum(each) / len(each)
    if spice:
        check_spice()
        from pycocoevalcap.spice.spice import Spice  # downloads 384 MB of CoreNLP when it first runs

        scores["spice"] = float(Spice().compute_score(truths, hypotheses)[0])
    return {name: round(value, 4) for name, value in scores.items()}


def check_spice() -> None:
    """Raise UsageError unless SPICE can run."""
    if not has_java():
        raise UsageError("SPICE is a Java program and `java` is not installed. Install it, or leave out --spice.")


def has_java() -> bool:
    """Return whether the Java programs of METEOR and SPICE can run."""
    return shutil.which("java") is not None


def _meteor(truths: Mapping[str, list[str]], hypotheses: Mapping[str, list[str]]) -> dict[str, float]:
    """Run METEOR's Java program, and clean up after it: the wrapper leaves its process, pipes and lock behind."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        return {"meteor": float(scorer.compute_score(truths, hypotheses)[0])}
    except (OSError, ValueError) as error:
        print(f"left out METEOR: its Java program failed ({error}); see `java -version`.", file=sys.stderr)
        return {}
    finally:
        if scorer.lock.locked():  # its destructor would wait for the lock
            scorer.lock.release()
        scorer.meteor_p.kill()
        scorer.meteor_p.communicate()


@cache
def _wordnet() -> Any:
    """Return WordNet from NLTK's data, None where it is not: `python -m nltk.downloader wordnet` fetches it."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError):
        return None
    return wordnet


def _tokenized(
    captions: Captions, references: References
) -> tuple[list[str], dict[str, list[str]], dict[str, list[str]]]:
    """Return the names of the images, and hypotheses and references in the form that pycocoevalcap takes."""
    names = sorted(captions)
    hypotheses = {name: [" ".join(tokenize(captions[name]))] for name in names}
    truths = {name: [" ".join(tokenize(reference)) for reference in references[name]] for name in names}
    return names, hypotheses, truths


def _bleu(
    hypotheses: Mapping[str, list[str]], truths: Mapping[str, list[str]], names: Sequence[str], order: int
) -> float:
    return float(
        corpus_bleu(
            [[truth.split() for truth in truths[name]] for name in names],
            [hypotheses[name][0].split() for name in names],
            weights=(1 / order,) * order,
            smoothing_function=_SMOOTHING,
        )
    )
