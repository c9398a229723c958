"""Training learns, by words and by rewards; it resumes exactly where it stopped; the product says what it learned."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from captioning.bundles import find_bundles, read_bundle
from captioning.errors import UsageError
from captioning.model.decoder import DecoderConfig, make_decoder
from captioning.model.weights import load_weights
from tests.journeys.cli_runner import CliRunner
from tests.support.servers import wait_until
from tests.training.conftest import MEMORISING
from training.config import TrainConfig, with_settings
from training.data.batches import batches, steps_of
from training.data.encoders import EncoderFile, open_encoder
from training.export.write_bundle import export_bundle
from training.fit.checkpoints import BEST, LAST
from training.fit.train import prepare, run_training


@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.slow), "updown"])
def test_the_other_kinds_can_memorise_four_captions_too(
    kind: Any, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, cells=("lstm", "gru"), kind=kind, epochs=120, dropout=0.0)
    scores = run_training(corpus, encoder, config, tmp_path, cache, resume=False)["val"]
    assert scores["lstm"]["bleu4"] > 0.9
    assert scores["gru"]["bleu4"] > 0.9


@pytest.mark.parametrize(
    ("kind", "cell"), [("attention", "gru"), pytest.param("plain", "lstm", marks=pytest.mark.slow)]
)
def test_the_product_says_what_a_bundle_has_learned(
    kind: Any, cell: Any, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, cells=(cell,), kind=kind)
    if kind == "plain":  # an image that is seen once takes longer to learn
        config = dataclasses.replace(config, epochs=120, dropout=0.0)
    run_training(corpus, encoder, config, tmp_path / "run", cache, resume=False)
    bundle = export_bundle(tmp_path / "run", encoder, "four", tmp_path / "bundles", data=corpus, cache=cache)
    bundle.verify()
    assert read_bundle(bundle.folder).description["metrics"]["val"]["bleu4"] > 0.9
    assert bundle.description["provenance"]["images"]["train"] == 4
    assert "**Confidence.**" in (bundle.folder / "CARD.md").read_text()
    person = CliRunner(tmp_path / "data", {"CAPTIONING_BUNDLES": str(tmp_path / "bundles"), "CAPTIONING_MODEL": "four"})
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


@pytest.mark.parametrize("epoch", [2, 5, 7], ids=["in the words", "as the rewards begin", "in the rewards"])
def test_a_run_that_was_killed_ends_with_the_weights_that_it_would_have_had(
    epoch: int, corpus: Path, encoder: EncoderFile, cache: Path, whole_run: Path, tmp_path: Path
) -> None:
    """The kill comes when an epoch's best weights are written and its checkpoint is not: the most awkward moment."""
    words = ["-c", KILLED, str(corpus), str(cache), str(tmp_path), str(epoch)]
    ended = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    config = dataclasses.replace(MEMORISING, **SHORT)
    run_training(corpus, encoder, config, tmp_path, cache, resume=True)
    last_cut, last_whole = (torch.load(run / LAST, weights_only=True)["network"] for run in (tmp_path, whole_run))
    best_cut, best_whole = (load_file(run / BEST) for run in (tmp_path, whole_run))
    assert last_cut.keys() == last_whole.keys()
    assert all(torch.equal(last_cut[n], last_whole[n]) for n in last_whole)
    assert all(torch.equal(best_cut[n], best_whole[n]) for n in best_whole)


SHORT: dict[str, Any] = {"epochs": 4, "scst_epochs": 4, "hidden_size": 32, "keep_last": True}
KILLED = """
import dataclasses, os, signal, sys
from pathlib import Path
from tests.training.conftest import MEMORISING
from training import loop
from training.data.encoders import open_encoder
from training.fit.train import prepare, run_training
corpus, cache, run, epochs = (Path(word) for word in sys.argv[1:])
save = loop.save_checkpoint
def save_checkpoint(folder, *rest):
    if len((folder / "log.jsonl").read_text().splitlines()) >= int(str(epochs)):
        os.kill(os.getpid(), signal.SIGKILL)
    save(folder, *rest)
loop.save_checkpoint = save_checkpoint
config = dataclasses.replace(MEMORISING, epochs=4, scst_epochs=4, hidden_size=32, keep_last=True)
run_training(corpus, open_encoder(Path("flickr8k-lstm"), None, Path()), config, run, cache, resume=False)
"""


@pytest.fixture(scope="session")
def whole_run(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole")
    run_training(corpus, encoder, dataclasses.replace(MEMORISING, **SHORT), run, cache, resume=False)
    return run


def test_a_killed_command_goes_on_only_as_it_was_begun(corpus: Path, cache: Path, tmp_path: Path) -> None:
    person = CliRunner(tmp_path)
    words = ["train", "--data", str(corpus), "--encoder", "flickr8k-lstm", "--epochs", "400", "--patience", "0"]
    words += ["--hidden", "32", "--cache", str(cache), "--run", str(tmp_path / "run")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = person.start("training", *words, **quiet)
    wait_until((tmp_path / "run" / LAST).exists, 120, "an epoch")
    running.kill()
    running.wait()
    said = person.run("training", *words)
    assert said.code == 2
    assert "holds a run already: add --resume" in said.err
    said = person.run("training", *words, "--resume", "--seed", "2")
    assert said.code == 2
    assert "begun with other settings" in said.err


def test_rewards_raise_the_reward(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(MEMORISING, epochs=5, scst_epochs=30, scst_learning_rate=3e-3)
    run_training(corpus, encoder, config, tmp_path, cache, resume=False)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in log if line["phase"] == "rewards"]
    assert len(rewards) == 30
    assert sum(rewards[-5:]) > sum(rewards[:5]) * 1.2


def test_tuning_moves_stage_five_and_nothing_else_for_all_decoders(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=1, scst_epochs=1, cells=("lstm", "gru"), views=4,
                                 encoder_learning_rate=1e-2, scst_encoder_learning_rate=1e-3)  # fmt: skip
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


def test_a_model_at_hand_is_trained_on_with_its_own_words(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    bundle = find_bundles()["flickr8k-gru"]
    config = TrainConfig(cells=("gru",), epochs=1, learning_rate=0.0, start=str(bundle.folder))
    about = run_training(corpus, encoder, config, tmp_path / "still", cache, resume=False)
    assert about["vocabulary"] == bundle.description["vocabulary"]
    before, after = load_weights(bundle.decoder_file), load_file(tmp_path / "still" / BEST)
    assert all(torch.equal(before[name], after[f"decoders.gru.{name}"]) for name in before)
    own = export_bundle(tmp_path / "still", encoder, "own", tmp_path / "bundles")
    assert "learned from 6000 images of Flickr8k" in (own.folder / "CARD.md").read_text()
    for change, says in (
        ({"cells": ("lstm",)}, "there is no lstm to go on with, only gru"),
        ({"hidden_size": 256}, r"has another kind or size: .* is \(.*\), not \(.*\)"),
        ({"start": str(tmp_path)}, "holds no finished run"),
    ):
        with pytest.raises(UsageError, match=says):
            run_training(
                corpus, encoder, dataclasses.replace(config, **change), tmp_path / says[:9], cache, resume=False
            )


def test_a_run_goes_on_with_its_own_captions_only_and_a_mistake_makes_no_folder(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config, run = dataclasses.replace(MEMORISING, epochs=1), tmp_path / "run"
    with pytest.raises(UsageError, match="can't read the data folder"):
        run_training(tmp_path / "typo", encoder, config, run, cache, resume=False)
    assert not run.exists()
    run_training(corpus, encoder, config, run, cache, resume=False)
    other = shutil.copytree(corpus, tmp_path / "other")
    text = (other / "captions.txt").read_text()
    (other / "captions.txt").write_text(text.replace("cup of coffee", "mug of coffee"))
    with pytest.raises(UsageError, match="begun on other images or captions"):
        run_training(other, encoder, config, run, cache, resume=True)


def test_a_bundle_is_exported_beside_the_one_whose_encoder_it_has(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    run_training(corpus, encoder, dataclasses.replace(MEMORISING, epochs=1), tmp_path / "run", cache, resume=False)
    first = export_bundle(tmp_path / "run", encoder, "first", tmp_path / "bundles")
    beside = open_encoder(first.folder, None, cache)
    export_bundle(tmp_path / "run", beside, "second", tmp_path / "bundles").verify()
    export_bundle(tmp_path / "run", beside, "first", tmp_path / "bundles").verify()


def test_a_phase_ends_when_it_gets_no_better(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(MEMORISING, epochs=50, learning_rate=0.0, patience=3)
    run_training(corpus, encoder, config, tmp_path, cache, resume=False)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_processes_divide_every_batch_among_them(corpus: Path, encoder: EncoderFile, cache: Path) -> None:
    config = dataclasses.replace(MEMORISING, images=3, views=2)
    data = prepare(corpus, encoder, config, cache)
    whole = [list(zip(b.names, b.views, strict=True)) for b in batches(data, config, 1)]
    shares = [[list(zip(b.names, b.views, strict=True)) for b in batches(data, config, 1, rank, 2)] for rank in (0, 1)]
    assert len(whole) == steps_of(data, config) == 2
    assert len(shares[0]) == len(shares[1]) == steps_of(data, config, 2) == 1  # the one left over can't be shared
    assert sorted(shares[0][0] + shares[1][0]) == sorted(whole[0])


@pytest.mark.slow
def test_two_processes_share_each_batch(corpus: Path, cache: Path, tmp_path: Path) -> None:
    person = CliRunner(tmp_path)
    words = ["train", "--data", str(corpus), "--encoder", "flickr8k-lstm", "--epochs", "2", "--hidden", "32"]
    words += ["--cache", str(cache), "--set", "warmup_steps=1"]
    words += ["--set", "dropout=0"]  # each process has masks of its own
    for devices in ("1", "2"):
        said = person.run("training", *words, "--devices", devices, "--run", str(tmp_path / devices))
        assert said.code == 0, said.err
        assert said.out.count("best epoch") == 1
    torch.manual_seed(1)
    shape = json.loads((tmp_path / "1" / "run.json").read_text())["decoders"]["lstm"]
    start = make_decoder(DecoderConfig(**shape)).mix.weight.detach()
    moved = [
        torch.load(tmp_path / devices / LAST, weights_only=True)["network"]["decoders.lstm.mix.weight"] - start
        for devices in ("1", "2")
    ]
    assert torch.cosine_similarity(moved[0].flatten(), moved[1].flatten(), 0) > 0.8


def test_settings_are_checked_and_named(tmp_path: Path) -> None:
    changed = with_settings(TrainConfig(), ["min_count=3", "keep_last=true", "optimizer=nadam", "weight_decay=0.1"])
    assert (changed.min_count, changed.keep_last, changed.optimizer, changed.weight_decay) == (3, True, "nadam", 0.1)
    for wrong, says in (
        ("min_count", "takes name=value"),
        ("colour=1", "takes name=value, not 'colour=1'; names are kind"),
        ("views=9", "views is 1 to 4, not 9"),
        ("temperature=0", "temperature is above 0"),
        ("encoder_learning_rate=-1", "0 or more, not -1"),
        ("scst_learning_rate=-1", "0 or more, not -1"),
        ("label_smoothing=2", "label_smoothing is 0 to 1, not 2"),
        ("weight_decay=nan", "weight_decay is 0 or more, not nan"),
        ("epochs=0", "nothing to train"),
        ("epochs=ten", "epochs takes int, not 'ten'"),
        ("optimizer=sgd", "adamw, nadam, radam, not 'sgd'"),
        ("memory_size=100", "8 heads"),
        ("kind=transformer", "plain, attention, updown, not 'transformer'"),
    ):
        with pytest.raises(UsageError, match=says):
            with_settings(TrainConfig(), [wrong])
