"""Training learns, resumes where it stopped, and exports what it measured; data come in all their flaws."""

import dataclasses
import json
import math
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from captioning.bundles import find_bundles, read_bundle
from captioning.errors import UsageError
from captioning.model.weights import load_weights
from scripts.sample_pictures import copy_samples
from tests.journeys.people import Person
from tests.servers import wait_until
from training.config import TrainConfig
from training.dataset import read_corpus
from training.encoders import EncoderFile, open_encoder
from training.export import export_bundle
from training.metrics import score
from training.runs import run_training
from training.text import words_of

SAID = {
    "astronaut.png": "A woman in an orange suit smiles at the camera .",
    "chelsea.png": "A striped cat looks at something .",
    "coffee.png": "A cup of coffee stands on a wooden table .",
    "rocket.jpg": "A rocket stands on its launch pad at night .",
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with five captions each, in the form of captions.txt, with its usual flaws."""
    folder = tmp_path_factory.mktemp("corpus")
    copy_samples(folder / "Images")
    lines = [f'{name},"{text}"' for name, text in SAID.items() for _ in range(5)]
    lines += ["2258277193_586949ec62.jpg.1,A caption without a picture .", "flower.jpg,"]
    (folder / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n")
    (folder / "Flickr_8k.trainImages.txt").write_text("\n".join(SAID) + "\n")
    (folder / "Flickr_8k.devImages.txt").write_text("\n".join(SAID) + "\nnobody.jpg\n")
    return folder


@pytest.fixture(scope="session")
def encoder() -> EncoderFile:
    """The encoder of the built-in models."""
    return EncoderFile(find_bundles()["flickr8k-lstm"].encoder_file, {"stride": "1x1", "origin": "built in"})


CONFIG = TrainConfig(
    epochs=60,
    learning_rate=3e-3,
    warm_up=5,
    min_count=1,
    hidden_size=64,
    average_decay=0.8,
    label_smoothing=0.0,
    captions=2,
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_decoder_can_memorise_four_captions_and_its_bundle_says_them(
    cell: str, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, cell=cell)  # type: ignore[arg-type]
    about = run_training(corpus, encoder, config, tmp_path / "run", cache, resume=False)
    assert about["val"]["bleu4"] > 0.9
    bundle = export_bundle(tmp_path / "run", encoder, "four", tmp_path / "bundles", corpus, cache)
    bundle.verify()
    assert read_bundle(bundle.folder).description["metrics"]["val"]["bleu4"] > 0.9
    assert bundle.description["provenance"]["pictures"]["train"] == 4
    person = Person(tmp_path / "data", {"CAPTIONING_BUNDLES": str(tmp_path / "bundles"), "CAPTIONING_MODEL": "four"})
    assert person.submit(str(corpus / "Images" / "coffee.png"))["captioned"] == 1
    assert person.producer("export").lines[0]["caption"] == "a cup of coffee stands on a wooden table"


def test_a_run_that_was_killed_ends_where_it_would_have(corpus: Path, encoder: EncoderFile, tmp_path: Path) -> None:
    person = Person(tmp_path)
    words = ["train", "--data", str(corpus), "--encoder", str(encoder.weights), "--stride", "1x1", "--epochs", "12"]
    words += ["--hidden", "32", "--cache", str(tmp_path / "cache"), "--run"]

    def log_of(run: str) -> list[dict[str, float]]:
        path = tmp_path / run / "log.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    assert person.run("training", *words, str(tmp_path / "whole")).code == 0
    running = person.start(
        "training", *words, str(tmp_path / "cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(log_of("cut")) >= 2, 60, "two epochs")
    running.kill()
    running.wait()
    assert len(log_of("cut")) < 12
    said = person.run("training", *words, str(tmp_path / "cut"))
    assert said.code == 2
    assert "holds a run already: add --resume" in said.err
    said = person.run("training", *words, str(tmp_path / "cut"), "--resume", "--seed", "2")
    assert said.code == 2
    assert "begun with other settings" in said.err
    assert person.run("training", *words, str(tmp_path / "cut"), "--resume").code == 0
    assert log_of("cut") == log_of("whole")


def test_tuning_moves_stage_five_and_nothing_else(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, epochs=2, encoder_learning_rate=1e-2)
    run_training(corpus, encoder, config, tmp_path, cache, resume=False)
    before, after = load_weights(encoder.weights), load_weights(tmp_path / "encoder.safetensors")
    moved = {name for name in before if not torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-6)}
    assert moved
    assert all(name.startswith("layer4.") for name in moved)
    assert open_encoder(tmp_path, None, cache).about["tuned_from"] == encoder.digest


def test_both_forms_of_flickr8k_give_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokens"
    shutil.copytree(corpus, other)
    (other / "captions.txt").unlink()
    lines = [f"{name}#{i}\t{text}" for name, text in SAID.items() for i in range(5)]
    (other / "Flickr8k.token.txt").write_text("\n".join([*lines, "gone.jpg.1#0\tNo picture .", "no tab"]) + "\n")
    one, two = read_corpus(corpus), read_corpus(other)
    assert (one.captions, one.train, one.val) == (two.captions, two.train, two.val)
    assert (one.left_out, two.left_out) == (2, 1)


def test_without_split_files_pictures_are_divided_by_their_names(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine"
    shutil.copytree(corpus, other)
    for path in other.glob("Flickr_8k*"):
        path.unlink()
    found = read_corpus(other)
    assert set(found.train) | set(found.val) == set(SAID)
    assert not set(found.train) & set(found.val)
    assert read_corpus(other) == found


@pytest.mark.parametrize(("make", "says"), [(False, "can't read the data folder"), (True, "no captions.txt")])
def test_a_folder_without_captions_says_what_is_missing(tmp_path: Path, make: bool, says: str) -> None:
    if make:
        (tmp_path / "data" / "Images").mkdir(parents=True)
    with pytest.raises(UsageError, match=says):
        read_corpus(tmp_path / "data")


def test_a_bare_backbone_must_say_where_its_stride_sits(encoder: EncoderFile, tmp_path: Path) -> None:
    bare = tmp_path / "backbone.safetensors"
    shutil.copy(encoder.weights, bare)
    with pytest.raises(UsageError, match="--stride 1x1"):
        open_encoder(bare, None, tmp_path)
    assert open_encoder(bare, "1x1", tmp_path).load().encoder.stride == "1x1"
    with pytest.raises(UsageError, match="no encoder at"):
        open_encoder(tmp_path / "none", "1x1", tmp_path)


def test_bleu_and_cider_match_the_reference_scorers() -> None:
    """pycocoevalcap's own BLEU, and CIDEr-D by the formula, on sentences made at random."""
    from pycocoevalcap.bleu.bleu import Bleu

    chance = random.Random(1)
    vocabulary = [chr(97 + i) * 2 for i in range(12)]

    def sentence() -> str:
        return " ".join(chance.choices(vocabulary, k=chance.randint(6, 12)))

    references = {str(i): [sentence() for _ in range(5)] for i in range(30)}
    said = {name: " ".join([*chance.choice(refs).split()[:8], sentence()]) for name, refs in references.items()}
    scores = score(said, references)
    expected, _ = Bleu(4).compute_score(references, {n: [s] for n, s in said.items()}, verbose=0)
    assert [scores[f"bleu{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected, abs=2e-4)
    assert score({n: r[0] for n, r in references.items()}, references)["bleu4"] == 1.0
    assert 0 < scores["cider"] < 10
    assert math.isfinite(scores["rouge_l"])


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("A dog's ball, two-toned (red) .") == ["a", "dog's", "ball", "two", "toned", "red"]


def test_the_command_line_of_training_explains_its_mistakes(tmp_path: Path, corpus: Path) -> None:
    person = Person(tmp_path)
    for words, says in (
        (["train", "--data", "/none", "--encoder", "/none", "--run", "r"], "no encoder at /none"),
        (
            ["train", "--data", str(corpus), "--encoder", "/none", "--run", "r", "--cell", "rnn"],
            "lstm or gru, not 'rnn'",
        ),
        (["evaluate", "blip", "--data", str(corpus)], "no model named 'blip'"),
        (["info", "blip"], "no model named 'blip'"),
        (["export", "--run", "/none", "--encoder", "/none", "--name", "x", "-o", "y"], "no encoder at /none"),
    ):
        said = person.run("training", *words, cwd=tmp_path)
        assert said.code == 2, said
        assert says in said.err
        assert said.err.count("\n") == 1
    for command in ("tune", "train", "evaluate", "export", "info"):
        assert "Example: training" in person.run("training", command, "--help").out
    assert json.loads(person.run("training", "info", "flickr8k-gru").out)["name"] == "flickr8k-gru"


def test_a_mirrored_picture_is_never_taught_left_and_right() -> None:
    from training.loop import _sentences

    captions = ["a dog on the left", "a dog runs", "it turns right", "a ball"]
    for seed in range(20):
        words = _sentences(captions, True, 5, random.Random(seed))
        assert len(words) == 5
        assert not any({"left", "right"} & set(w) for w in words)
