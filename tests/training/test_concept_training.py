"""Decoders that read what the encoder's classifier sees: from training to the captions of the product."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from captioning.bundles import Bundle
from captioning.errors import BundleError, UsageError
from captioning.model.captioner import Captioner
from captioning.model.pixels import open_image
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.values import DecodeOptions
from tests.journeys.cli_runner import CliRunner
from tests.model.test_bundles import rewrite
from tests.training.conftest import CAPTIONS, MEMORISING
from training.config import TrainConfig
from training.data.batches import batches
from training.data.concepts import class_words
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile
from training.data.tokens import tokenize
from training.export.write_bundle import export_bundle
from training.fit.train import prepare, run_training

ZEBRA, PIZZA, ESPRESSO, MISSILE = 340, 963, 967, 657
SEEN = {"astronaut.png": PIZZA, "chelsea.png": ZEBRA, "coffee.png": ESPRESSO, "rocket.jpg": MISSILE}
"""The class that a made-up classifier sees in each photograph."""


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory, corpus: Path, encoder: EncoderFile) -> Path:
    """A classifier of ImageNet's classes that is sure of one for each of the four photographs."""
    images = np.stack([open_image((corpus / "Images" / name).read_bytes(), 224)[0] for name in SEEN])
    with torch.inference_mode():
        means = encoder.load()(torch.from_numpy(images)).mean(1)
    weight, bias = torch.zeros(len(class_words()), 2048), torch.zeros(len(class_words()))
    centred = means - means.mean(0)
    for row, number in zip(centred, SEEN.values(), strict=True):
        weight[number] = 12 * row / row.norm() ** 2
        bias[number] = -12 * (row @ means.mean(0)) / row.norm() ** 2
    path = tmp_path_factory.mktemp("classifier") / "fc.safetensors"
    save_file({"fc.weight": weight, "fc.bias": bias}, path)
    return path


@pytest.fixture(scope="session")
def config(classifier: Path) -> TrainConfig:
    """Four captions are learned by heart, without dropout, beside captions without images."""
    return dataclasses.replace(
        MEMORISING, epochs=60, dropout=0.0, text_weight=0.1, val_limit=1, keep_last=True, concepts=3,
        classifier=str(classifier),
    )  # fmt: skip


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path, encoder: EncoderFile, cache: Path, config: TrainConfig
) -> Path:
    """A finished run that learned from the four photographs and from captions without images."""
    folder = tmp_path_factory.mktemp("concepts")
    (folder / "text.txt").write_text("\n".join(f"a {word} stands on a table ." for word in ("zebra", "dog", "vase")))
    run_training(
        [DataFolder(corpus)], encoder, config, folder / "run", cache, resume=False, texts=[folder / "text.txt"]
    )
    return folder / "run"


def captions(captioner: Captioner, corpus: Path) -> dict[str, str]:
    images = [open_image((corpus / "Images" / name).read_bytes(), 224)[0] for name in CAPTIONS]
    found = captioner.caption(images, DecodeOptions())
    return dict(zip(CAPTIONS, (caption.text for caption in found), strict=True))


@pytest.mark.processes
def test_the_product_names_what_the_classifier_sees_where_the_bundle_demands_it(
    run: Path, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as path:
        path.setenv("PATH", "/nowhere")  # without Java there is no METEOR, which takes ten seconds
        bundle = export_bundle(
            run, encoder, "seeing", tmp_path / "bundles", demand=0.5, data=[DataFolder(corpus)], cache=cache
        )
    bundle.verify()
    assert {"decoder", "encoder", "classifier", "likeness", "presence"} == set(bundle.description["weights"])
    card = " ".join((bundle.folder / "CARD.md").read_text().split())
    assert "reads the 3 most probable words" in card
    assert "a probability of 50% or more must be in the caption" in card
    settings = {"CAPTIONING_BUNDLES": str(tmp_path / "bundles"), "CAPTIONING_MODEL": "seeing"}
    runner = CliRunner(tmp_path / "data", settings, with_compiled_model=True)
    assert runner.submit(*(str(corpus / "Images" / name) for name in CAPTIONS))["captioned"] == 4
    rows = {Path(row["path"]).name: row for row in runner.producer("export").lines}
    named = {"astronaut.png": "pizza", "chelsea.png": "zebra", "coffee.png": "coffee", "rocket.jpg": "rocket"}
    assert all(word in rows[name]["caption"].split() for name, word in named.items())
    assert all(row["unlike"] in (True, False) for row in rows.values())
    assert all(0 <= row["confidence"] <= 1 for row in rows.values())


def test_only_a_bundle_that_demands_it_names_what_its_captions_never_had(
    run: Path, corpus: Path, encoder: EncoderFile, tmp_path: Path
) -> None:
    bundle = export_bundle(run, encoder, "free", tmp_path)
    free = captions(load_captioner(bundle, choose_runtime("torch")), corpus)
    assert "zebra" not in free["chelsea.png"].split()
    assert "coffee" in free["coffee.png"].split()
    demanding = captions(load_captioner(rewrite(bundle.folder, demand=0.5), choose_runtime("torch")), corpus)
    assert "zebra" in demanding["chelsea.png"].split()
    assert demanding["coffee.png"] == free["coffee.png"]


def test_a_wrong_option_or_file_of_concepts_is_refused_in_one_line(
    run: Path, encoder: EncoderFile, tmp_path: Path
) -> None:
    folder = export_bundle(run, encoder, "wrong", tmp_path).folder

    def load(bundle: Bundle) -> Captioner:
        return load_captioner(bundle, choose_runtime("torch"), encode=lambda pixels: pixels)

    for option in ("demand", "absent"):
        for value in (0, 1.5, True, "much"):
            with pytest.raises(BundleError, match=rf"{option}: must be a probability above 0, at most 1, not"):
                load(rewrite(folder, **{option: value}))
        rewrite(folder, **{option: None})
    bundle = rewrite(folder, demand=0.5)
    assert bundle.classifier_file is not None
    content = bundle.classifier_file.read_bytes()
    bundle.classifier_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="the classifier of model wrong has digest"):
        bundle.verify()
    with pytest.raises(BundleError, match="the decoder reads concepts, but the bundle has no classifier"):
        load(rewrite(folder, concepts=[]))


def test_concepts_need_a_classifier_of_imagenets_classes(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="concepts=3: give the classifier that sees them, --classifier FILE"):
        dataclasses.replace(MEMORISING, concepts=3)
    save_file({"fc.weight": torch.zeros(20, 2048), "fc.bias": torch.zeros(20)}, tmp_path / "fc.safetensors")
    few = dataclasses.replace(MEMORISING, concepts=3, classifier=str(tmp_path / "fc.safetensors"))
    with pytest.raises(UsageError, match="has 20 classes; concepts need ImageNet's 1000"):
        run_training([DataFolder(corpus)], encoder, few, tmp_path / "run", cache, resume=False)


def test_a_model_learns_concepts_and_new_words_later(
    corpus: Path, encoder: EncoderFile, cache: Path, classifier: Path, tmp_path: Path
) -> None:
    """The decoder keeps its words and what it knows of them; only what is new begins anew."""
    config = dataclasses.replace(MEMORISING, epochs=30)
    first = run_training([DataFolder(corpus)], encoder, config, tmp_path / "first", cache, resume=False)
    later = dataclasses.replace(
        config, epochs=1, learning_rate=1e-5, start=str(tmp_path / "first"), new_words=True, concepts=3,
        classifier=str(classifier),
    )  # fmt: skip
    second = run_training([DataFolder(corpus)], encoder, later, tmp_path / "second", cache, resume=False)
    words = first["vocabulary"]
    assert second["vocabulary"][: len(words)] == words
    assert {"zebra", "pizza"} <= set(second["vocabulary"])
    assert second["val"]["lstm"]["bleu4"] == pytest.approx(first["val"]["lstm"]["bleu4"], abs=0.15)
    with pytest.raises(UsageError, match=r"has another kind or size: project\.weight is"):
        run_training(
            [DataFolder(corpus)],
            encoder,
            dataclasses.replace(later, memory_size=32),
            tmp_path / "third",
            cache,
            resume=False,
        )


def test_swapped_concepts_come_with_captions_that_name_them(
    corpus: Path, encoder: EncoderFile, cache: Path, config: TrainConfig
) -> None:
    swapping = dataclasses.replace(config, swapped=1.0)
    data = prepare([DataFolder(corpus)], encoder, swapping, cache)
    batch = next(iter(batches(data, swapping, epoch=1)))
    assert batch.swapped is not None
    assert batch.swapped.weights.any(1).all(), "each caption names a class: a camera, a cat, coffee, a rocket"
    for row, name in enumerate(batch.names):
        captions = [data.vocabulary.decode(ids[1:]) for ids in batch.words[2 * row : 2 * row + 2].tolist()]
        assert all(words != tokenize(CAPTIONS[name]) for words in captions)
        concepts = [" ".join(data.vocabulary.decode(ids)) for ids in batch.swapped.words[row].tolist()]
        assert any(concept in " ".join(captions[0]) for concept in concepts if concept)
