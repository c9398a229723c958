"""The model card of a bundle (Mitchell et al. 2019, arXiv:1810.03993)."""

import textwrap
from typing import Any

_KINDS = {
    "plain": "decoder of {cell} cells that sees the pooled image once",
    "attention": "decoder of {cell} cells with multi-head attention over the grid",
    "updown": "two-layer decoder of {cell} cells with multi-head attention over the grid",
}
FLICKR8K = (
    "fbb334d8b4d4bab05a65950cb0b8123079c40ba8d1c38d8aa360fa27459e8cf4"  # of the ids of its 6000 training images
)
_CELLS = {"lstm": "LSTM", "gru": "GRU"}


def card_of(description: dict[str, Any]) -> str:
    """Return the card, in Markdown, of a bundle's description."""
    val = description["metrics"]["val"]
    images = description["provenance"]["images"]
    origin = description["provenance"]["encoder"]
    decoder = description["decoder"]
    kind = _KINDS[decoder.get("kind", "attention")].format(cell=_CELLS[decoder["cell"]])
    tuned = " Then stage 5 was fine-tuned with the caption loss on the training images." if "tuned" in origin else ""
    encoder = origin.get("origin", "A ResNet50") + "." + tuned
    encoder += f" The stride of a stage sits in its {origin['stride']} convolution."
    rewarded = description["provenance"]["config"].get("scst_epochs", 0)
    rows = [("CIDEr-D", f"{val['cider']:.3f}")]
    rows += [("BLEU-1 / 2 / 3 / 4", " / ".join(f"{val[f'bleu{n}']:.3f}" for n in (1, 2, 3, 4)))]
    rows += [("ROUGE-L", f"{val['rouge_l']:.3f}")]
    rows += [("METEOR 1.5", f"{val['meteor']:.3f}")] if "meteor" in val else []
    rows += [("distinct captions", str(val["distinct"]))]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""# {description["name"]}

A one-sentence English captioner for photographs: a ResNet50 encoder (7 x 7 grid of 2048 features) and
a {kind}.

| val, {val.get("images", images["val"])} images, beam 3 | |
|---|---|
{table}

Scored free-running against all references of an image with pycocoevalcap (CIDEr-D, ROUGE-L, METEOR) and NLTK (corpus
BLEU).{_chosen(description)} For scale: a person's
caption scored against the other four of Flickr8k's test images reaches CIDEr 0.82 and BLEU-4 0.21.
{_habits(description)}
**Training.** Next words with label smoothing{", then self-critical training on CIDEr-D" if rewarded else ""}; the
running average of the weights at the best epoch.

{_data(description)}
**Encoder.** {textwrap.fill(encoder[0].upper() + encoder[1:], 110)}
{_confidence(description)}
**Weights.** int8 with one float scale an output row; vectors in float32. Digests are in `bundle.json`.

{_limits(description)} {len(description["vocabulary"]) - 4} words.
"""


def _chosen(description: dict[str, Any]) -> str:
    provenance = description["provenance"]
    scored_on = description["metrics"].get("digest", provenance["images"]["digest"])
    if provenance["config"].get("keep_last") or scored_on != provenance["images"]["digest"]:
        return ""
    return " The epoch was chosen on these same images, so expect a little less on new ones."


def _is_flickr8k(description: dict[str, Any]) -> bool:
    return bool(description["provenance"]["images"]["digest"] == FLICKR8K)


def _data(description: dict[str, Any]) -> str:
    count = description["provenance"]["images"]["train"]
    if not _is_flickr8k(description):
        before = (description["provenance"].get("start") or {}).get("images")
        text = f"**Data.** {count} captioned images of whoever trained it; their terms hold for the weights too.\n"
        if before:
            whose = "of Flickr8k" if before["digest"] == FLICKR8K else "of others"
            text += f"It began as a model that had learned from {before['train']} images {whose}: their terms too.\n"
        return text
    return f"""**Data.** Flickr8k (M. Hodosh, P. Young, J. Hockenmaier 2013, "Framing Image Description as a Ranking
Task: Data, ModelCache and Evaluation Metrics", JAIR 47, 853-899): {count} training images with five captions each.
The corpus is given for non-commercial research and education; the photographs belong to the people who uploaded
them to Flickr. None of them is in this bundle. Whoever uses the model commercially must judge for themselves
what these terms mean for weights. ImageNet's, for the encoder, are non-commercial research too.
"""


def _limits(description: dict[str, Any]) -> str:
    if not _is_flickr8k(description):
        return "**Limits.** It knows the world of the images it learned from, and speaks of any other as of that."
    return """**Limits.** It knows the world of Flickr8k: people, dogs, sport, the outdoors, in daylight, around 2008.
Of anything else (documents, drawings, food, interiors, X-rays) it says something about people and dogs, often
with confidence. It names colours and counts unreliably, guesses at gender from little, and inherits whatever
its annotators assumed. Not for decisions about people."""


def _habits(description: dict[str, Any]) -> str:
    found = description["metrics"].get("habits")
    if not found:
        return ""
    text = (
        f"It uses {found['words_used']:.0f} different words on these images; {found['novel']:.0%} of its captions"
        f" are not in the training set; {found['repeats']:.0%} say a content word twice (people:"
        f' {found["repeats_human"]:.0%}); it says "shirt" {found["stock shirt"]:.1f} and "man in a"'
        f" {found['stock man in a']:.1f} times as often as people. Of the images that people call only male, it calls"
        f" {found['male misgendered']:.0%} only female; the other way round {found['female misgendered']:.0%}."
    )
    return "\n**Habits.** " + textwrap.fill(text, 110) + "\n"


def _confidence(description: dict[str, Any]) -> str:
    found = description.get("calibration")
    if not found:
        return ""
    text = (
        f"Calibrated on the val images. A caption's confidence is the share of captions like it with"
        f" {found['good']}; a word's, the share of words like it that at least one of five people used too. Expected"
        f" calibration error on folds not fitted: {found['caption_error']:.3f} for captions, {found['word_error']:.3f}"
        f" for words. On images unlike those it promises too much."
    )
    return "\n**Confidence.** " + textwrap.fill(text, 110) + "\n"
