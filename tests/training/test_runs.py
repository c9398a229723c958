"""Training learns, by words and by rewards; it resumes exactly where it stopped; the product says what it learned."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from captioning.bundles import read_bundle
from captioning.errors import UsageError
from captioning.model.weights import load_weights
from tests.journeys.people import Person
from tests.servers import wait_until
from tests.training.conftest import MEMORISING
from training.checkpoints import BEST, LAST
from training.config import TrainConfig, with_settings
from training.encoders import EncoderFile, open_encoder
from training.export import export_bundle
from training.runs import run_training


@pytest.mark.parametrize(("kind", "cell"), [("attention", "lstm"), ("plain", "gru"), ("updown", "lstm"), ("updown", "gru")])  # fmt: skip  # noqa: E501
def test_every_kind_of_decoder_can_memorise_four_captions(
    kind: Any, cell: Any, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, cells=(cell,), kind=kind, watched=4)
    assert run_training(corpus, encoder, config, tmp_path, cache, resume=False)["val"][cell]["bleu4"] > 0.9


@pytest.mark.parametrize(("kind", "cell"), [("attention", "gru"), ("plain", "lstm")])
def test_the_product_says_what_a_bundle_has_learned(
    kind: Any, cell: Any, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, cells=(cell,), kind=kind)
    run_training(corpus, encoder, config, tmp_path / "run", cache, resume=False)
    bundle = export_bundle(tmp_path / "run", encoder, "four", tmp_path / "bundles", data=corpus, cache=cache)
    bundle.verify()
    assert read_bundle(bundle.folder).description["metrics"]["val"]["bleu4"] > 0.9
    assert bundle.description["provenance"]["pictures"]["train"] == 4
    assert "**Confidence.**" in (bundle.folder / "CARD.md").read_text()
    person = Person(tmp_path / "data", {"CAPTIONING_BUNDLES": str(tmp_path / "bundles"), "CAPTIONING_MODEL": "four"})
    assert person.submit(str(corpus / "Images" / "coffee.png"))["captioned"] == 1
    assert person.producer("export").lines[0]["caption"] == "a cup of coffee stands on a wooden table"


def test_a_run_leaves_a_folder_that_tells_how_it_went(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=2, cells=("lstm", "gru"))
    run_training(corpus, encoder, config, tmp_path, cache, resume=False)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,phase,loss,cider,seconds,lstm/")
    assert len(rows) == 3
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "- gru: " in (tmp_path / "samples.md").read_text()
    assert json.loads((tmp_path / "versions.json").read_text())["torch"] == torch.__version__.partition("+")[0]
    assert list((tmp_path / "tensorboard").iterdir())
    with pytest.raises(UsageError, match="lstm and gru: say which with --cell"):
        export_bundle(tmp_path, encoder, "two", tmp_path / "bundles")
    assert (
        export_bundle(tmp_path, encoder, "two", tmp_path / "bundles", cell="gru").description["decoder"]["cell"]
        == "gru"
    )


def test_a_run_that_was_killed_ends_with_the_weights_that_it_would_have_had(
    corpus: Path, encoder: EncoderFile, tmp_path: Path
) -> None:
    """Through both phases: the kill falls somewhere in the words, the end is by rewards."""
    person = Person(tmp_path)
    words = ["train", "--data", str(corpus), "--encoder", str(encoder.weights), "--stride", "1x1", "--epochs", "8"]
    words += ["--critical-epochs", "3", "--hidden", "32", "--cache", str(tmp_path / "cache"), "--run"]

    def epochs(run: str) -> int:
        path = tmp_path / run / "log.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    assert person.run("training", *words, str(tmp_path / "whole")).code == 0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = person.start("training", *words, str(tmp_path / "cut"), **quiet)
    wait_until(lambda: epochs("cut") >= 2, 60, "two epochs")
    running.kill()
    running.wait()
    assert epochs("cut") < 11
    said = person.run("training", *words, str(tmp_path / "cut"))
    assert said.code == 2
    assert "holds a run already: add --resume" in said.err
    said = person.run("training", *words, str(tmp_path / "cut"), "--resume", "--seed", "2")
    assert said.code == 2
    assert "begun with other settings" in said.err
    assert person.run("training", *words, str(tmp_path / "cut"), "--resume").code == 0
    assert epochs("cut") == epochs("whole") == 11
    for name, load in ((BEST, load_file), (LAST, lambda path: torch.load(path, weights_only=True)["network"])):
        cut, whole = load(tmp_path / "cut" / name), load(tmp_path / "whole" / name)
        assert cut.keys() == whole.keys()
        assert all(torch.equal(cut[n], whole[n]) for n in whole), name


def test_rewards_raise_the_reward(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(MEMORISING, epochs=12, critical_epochs=25, critical_learning_rate=1e-3)
    run_training(corpus, encoder, config, tmp_path, cache, resume=False)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in log if line["phase"] == "rewards"]
    assert len(rewards) == 25
    assert sum(rewards[-5:]) > sum(rewards[:5]) * 1.2


def test_tuning_moves_stage_five_and_nothing_else_for_all_decoders(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=1, critical_epochs=1, cells=("lstm", "gru"), views=4,
                                 encoder_learning_rate=1e-2, critical_encoder_learning_rate=1e-3)  # fmt: skip
    run_training(corpus, encoder, config, tmp_path, cache, resume=False)
    before, after = load_weights(encoder.weights), load_weights(tmp_path / "encoder.safetensors")
    moved = {name for name in before if not torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-6)}
    assert moved
    assert all(name.startswith("layer4.") for name in moved)
    tuned = open_encoder(tmp_path, None, cache)
    assert tuned.about["tuned_from"] == encoder.digest
    for cell in ("lstm", "gru"):
        export_bundle(tmp_path, tuned, cell, tmp_path / "bundles", cell=cell).verify()
    assert len(list((tmp_path / "bundles" / "encoders").iterdir())) == 1
    with pytest.raises(UsageError, match="was trained on encoder"):
        export_bundle(tmp_path, encoder, "other", tmp_path / "bundles", cell="lstm")


def test_a_phase_ends_when_it_gets_no_better(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(MEMORISING, epochs=50, learning_rate=0.0, patience=3)
    run_training(corpus, encoder, config, tmp_path, cache, resume=False)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_two_processes_share_each_batch(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path) -> None:
    person = Person(tmp_path)
    words = ["train", "--data", str(corpus), "--encoder", str(encoder.weights), "--stride", "1x1", "--epochs", "3"]
    words += ["--cache", str(cache), "--hidden", "32", "--devices", "2", "--run", str(tmp_path / "run")]
    said = person.run("training", *words)
    assert said.code == 0, said.err
    assert said.out.count("best epoch") == 1
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3


def test_settings_are_checked_and_named(tmp_path: Path) -> None:
    changed = with_settings(TrainConfig(), ["min_count=3", "keep_last=true", "optimizer=nadam", "weight_decay=0.1"])
    assert (changed.min_count, changed.keep_last, changed.optimizer, changed.weight_decay) == (3, True, "nadam", 0.1)
    for wrong, says in (
        ("min_count", "takes name=value"),
        ("colour=1", "takes name=value, not 'colour=1'; names are kind"),
        ("views=9", "views is 1 to 4, not 9"),
        ("epochs=ten", "epochs takes int, not 'ten'"),
        ("optimizer=sgd", "adamw, nadam, radam, not 'sgd'"),
        ("memory_size=100", "8 heads"),
        ("kind=transformer", "plain, attention, updown, not 'transformer'"),
    ):
        with pytest.raises(UsageError, match=says):
            with_settings(TrainConfig(), [wrong])
