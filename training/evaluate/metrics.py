"""How good captions are, by the scorers that papers use.

BLEU (NLTK, corpus level), ROUGE-L and CIDEr-D (pycocoevalcap), METEOR 1.5 (its own program, where Java is),
SPICE on request. All take raw references (not mapped to the vocabulary) and one sentence an image, tokenised by
`words_of`. NLTK's METEOR is another measure, about twice as large, and has its own name.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from nltk.translate.meteor_score import meteor_score
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioning.errors import UsageError
from training.data.tokens import words_of

_WORDNET = (Path("/usr/share/wordnet"), Path("/usr/local/share/wordnet"))  # Debian's wordnet-base
_EMPTY = SmoothingFunction(epsilon=1e-9).method1  # a short text without a 4-gram is 0, not an error

BeamResult = Mapping[str, str]
References = Mapping[str, Sequence[str]]


def score(said: BeamResult, references: References) -> dict[str, float]:
    """Return bleu1..bleu4 (corpus level, closest length), rouge_l and cider, all 0 to 1 (CIDEr to 10).

    CIDEr takes its document frequencies from the references given: it is a figure of this very set.
    """
    names, hypotheses, truths = _tokenised(said, references)
    scores = {f"bleu{n}": _bleu(hypotheses, truths, names, n) for n in (1, 2, 3, 4)}
    scores["rouge_l"] = float(Rouge().compute_score(truths, hypotheses)[0])
    scores["cider"] = float(Cider().compute_score(truths, hypotheses)[0])
    return {name: round(value, 4) for name, value in scores.items()}


def cider_of_each(said: BeamResult, references: References) -> dict[str, float]:
    """Return the CIDEr-D of every image; their mean is the CIDEr-D of all."""
    names, hypotheses, truths = _tokenised(said, references)
    _, each = Cider().compute_score(truths, hypotheses)
    # the scorer goes through the images in the order of the references
    return dict(zip(names, map(float, each), strict=True))


def more_scores(said: BeamResult, references: References, *, spice: bool = False) -> dict[str, float]:
    """Return the slower scores that this machine can compute: meteor, meteor_nltk, and spice when asked for.

    Raises UsageError when SPICE is asked for and there is no Java.
    """
    names, hypotheses, truths = _tokenised(said, references)
    scores: dict[str, float] = {}
    if has_java():
        scores |= _meteor(truths, hypotheses)
    if (wordnet := _wordnet()) is not None:
        each = [meteor_score([t.split() for t in truths[n]], hypotheses[n][0].split(), wordnet=wordnet) for n in names]
        scores["meteor_nltk"] = sum(each) / len(each)
    if spice:
        check_spice()
        from pycocoevalcap.spice.spice import Spice  # fetches 384 MB of CoreNLP at its first run

        scores["spice"] = float(Spice().compute_score(truths, hypotheses)[0])
    return {name: round(value, 4) for name, value in scores.items()}


def _meteor(truths: Mapping[str, list[str]], hypotheses: Mapping[str, list[str]]) -> dict[str, float]:
    """Ask METEOR's own program, and see it off: the wrapper leaves its process, its pipes and its lock behind."""
    from pycocoevalcap.meteor.meteor import Meteor

    asked = Meteor()
    try:
        return {"meteor": float(asked.compute_score(truths, hypotheses)[0])}
    except (OSError, ValueError) as error:
        print(f"left out METEOR: its Java program failed ({error}); see `java -version`.", file=sys.stderr)
        return {}
    finally:
        if asked.lock.locked():  # it waits for it when it is thrown away
            asked.lock.release()
        asked.meteor_p.kill()
        asked.meteor_p.communicate()


def check_spice() -> None:
    """Raise UsageError unless SPICE can run."""
    if not has_java():
        raise UsageError("SPICE is a Java program and there is no `java` here. Install one, or leave out --spice.")


def has_java() -> bool:
    """Tell whether METEOR's and SPICE's own programs can run."""
    return shutil.which("java") is not None


@cache
def _wordnet() -> Any:
    """Return WordNet from NLTK's data or the system's, None where there is none."""
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    try:
        return WordNetCorpusReader(nltk.data.find("corpora/wordnet"), None)
    except LookupError:
        folder = next((f for f in _WORDNET if (f / "lexnames").exists()), None)
        return WordNetCorpusReader(nltk.data.FileSystemPathPointer(str(folder)), None) if folder else None


def _tokenised(said: BeamResult, references: References) -> tuple[list[str], dict[str, list[str]], dict[str, list[str]]]:
    names = sorted(said)
    hypotheses = {n: [" ".join(words_of(said[n]))] for n in names}
    truths = {n: [" ".join(words_of(r)) for r in references[n]] for n in names}
    return names, hypotheses, truths


def _bleu(
    hypotheses: Mapping[str, list[str]], truths: Mapping[str, list[str]], names: Sequence[str], order: int
) -> float:
    return float(
        corpus_bleu(
            [[t.split() for t in truths[n]] for n in names],
            [hypotheses[n][0].split() for n in names],
            weights=(1 / order,) * order,
            smoothing_function=_EMPTY,
        )
    )
