"""How good captions are, by the scorers that papers use: BLEU (NLTK), ROUGE-L and CIDEr-D (pycocoevalcap).

All take raw references (not mapped to the vocabulary) and one sentence a picture, tokenised by `words_of`.
"""

from collections.abc import Mapping, Sequence

from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from training.text import words_of


def score(said: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return bleu1..bleu4 (corpus level, closest length), rouge_l and cider, all 0 to 1 (CIDEr to 10).

    CIDEr takes its document frequencies from the references given: it is a figure of this very set.
    """
    names = sorted(said)
    hypotheses = {n: [" ".join(words_of(said[n]))] for n in names}
    truths = {n: [" ".join(words_of(r)) for r in references[n]] for n in names}
    scores = {f"bleu{n}": _bleu(hypotheses, truths, names, n) for n in (1, 2, 3, 4)}
    scores["rouge_l"] = float(Rouge().compute_score(truths, hypotheses)[0])
    scores["cider"] = float(Cider().compute_score(truths, hypotheses)[0])
    return {name: round(value, 4) for name, value in scores.items()}


def _bleu(
    hypotheses: Mapping[str, list[str]], truths: Mapping[str, list[str]], names: Sequence[str], order: int
) -> float:
    return float(
        corpus_bleu(
            [[t.split() for t in truths[n]] for n in names],
            [hypotheses[n][0].split() for n in names],
            weights=(1 / order,) * order,
            smoothing_function=SmoothingFunction(
                epsilon=1e-9
            ).method1,  # a short text without a 4-gram is 0, not an error
        )
    )
