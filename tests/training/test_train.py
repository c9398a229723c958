"""Training learns in both phases and resumes exactly; the product generates what a bundle has learned."""

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
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file

from captioning.bundles import find_bundles, read_bundle
from captioning.errors import TrainingDiverged, UsageError
from captioning.model.decoder import DecoderConfig, make_decoder
from captioning.model.precision import best_precision
from captioning.model.weights import load_weights
from tests.journeys.cli_runner import CliRunner
from tests.training.conftest import MEMORISING
from training.config import TrainConfig
from training.data.batches import batches, steps_of
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile, open_encoder
from training.export.write_bundle import export_bundle
from training.fit.checkpoints import BEST, LAST
from training.fit.loop import fit
from training.fit.network import CaptioningNetwork
from training.fit.run_dir import CONFIG
from training.fit.train import prepare, run_training, shape_of
from training.fit.trained import ABOUT


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# -- learning --


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "updown"])
def test_the_other_kinds_of_decoder_memorise_four_captions(
    kind: str, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, cells=("lstm", "gru"), kind=kind, epochs=120, dropout=0.0)
    scores = run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)["val"]
    assert scores["lstm"]["bleu4"] > 0.9
    assert scores["gru"]["bleu4"] > 0.9


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "cell"), [("attention", "gru"), pytest.param("plain", "lstm", marks=pytest.mark.slow)]
)
def test_the_product_generates_the_captions_that_a_bundle_has_learned(
    kind: str,
    cell: Any,
    corpus: Path,
    encoder: EncoderFile,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(MEMORISING, cells=(cell,), kind=kind, epochs=40)
    if kind == "plain":  # a decoder that reads the image once learns more slowly
        config = dataclasses.replace(config, epochs=120, dropout=0.0)
    run_training([DataFolder(corpus)], encoder, config, tmp_path / "run", cache, resume=False)
    with monkeypatch.context() as path:
        path.setenv("PATH", "/nowhere")  # without Java there is no METEOR, which takes ten seconds
        bundle = export_bundle(
            tmp_path / "run", encoder, "four", tmp_path / "bundles", data=[DataFolder(corpus)], cache=cache
        )
    bundle.verify()
    assert read_bundle(bundle.folder).description["metrics"]["val"]["bleu4"] > 0.9
    assert bundle.description["provenance"]["images"]["train"] == 4
    assert "**Confidence.**" in (bundle.folder / "CARD.md").read_text()
    assert "**int8.**" in (bundle.folder / "CARD.md").read_text()
    assert bundle.description["metrics"]["int8"]["cider_loss"] < 0.5
    settings = {"CAPTIONING_BUNDLES": str(tmp_path / "bundles"), "CAPTIONING_MODEL": "four"}
    runner = CliRunner(tmp_path / "data", settings, with_compiled_model=True)
    assert runner.submit(str(corpus / "Images" / "coffee.png"))["captioned"] == 1
    assert runner.producer("export").lines[0]["caption"] == "a cup of coffee stands on a wooden table"


def test_self_critical_training_raises_the_reward(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=5, scst_epochs=30, scst_learning_rate=3e-3)
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    rewards = [entry["reward"] for entry in read_log(tmp_path) if entry["phase"] == "scst"]
    assert len(rewards) == 30
    assert sum(rewards[-5:]) > sum(rewards[:5]) * 1.2


def test_training_in_mixed_precision_runs_both_phases(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=1, scst_epochs=1)
    data = prepare([DataFolder(corpus)], encoder, config, cache)
    decoder = make_decoder(shape_of(config, "lstm", len(data.vocabulary)))
    network = CaptioningNetwork({"lstm": decoder}, config=config)
    state = fit(Fabric(accelerator="cpu", precision="bf16-mixed"), network, data, config, tmp_path, resume=False)
    assert [entry["phase"] for entry in state.log] == ["cross_entropy", "scst"]


def test_tuning_changes_stage_5_only_and_for_all_decoders(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=1, scst_epochs=1, cells=("lstm", "gru"), views=4,
                                 encoder_learning_rate=1e-2, scst_encoder_learning_rate=1e-3)  # fmt: skip
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    before, after = load_weights(encoder.weights), load_weights(tmp_path / "encoder.safetensors")
    changed = {name for name in before if not torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-6)}
    assert changed
    assert all(name.startswith("layer4.") for name in changed)
    tuned = open_encoder(tmp_path, None, cache)
    assert tuned.about["tuned_from"] == encoder.digest
    for cell in ("lstm", "gru"):
        export_bundle(tmp_path, tuned, cell, tmp_path / "bundles", cell=cell).verify()
    assert len(list((tmp_path / "bundles" / "encoders").iterdir())) == 1
    with pytest.raises(UsageError, match="was trained on encoder"):
        export_bundle(tmp_path, encoder, "other", tmp_path / "bundles", cell="lstm")


def test_a_phase_ends_when_the_score_does_not_improve(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=50, learning_rate=0.0, patience=3)
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    assert len(read_log(tmp_path)) == 4


def test_a_loss_that_is_not_finite_stops_the_training(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(TrainingDiverged, match="try a smaller learning rate"):
        run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)


# -- the folder of a run --


def test_a_run_describes_itself_in_its_folder(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(MEMORISING, epochs=2, cells=("lstm", "gru"))
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,phase,loss,cider,seconds,lstm/")
    assert len(rows) == 3
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "- gru: " in (tmp_path / "samples.md").read_text()
    assert json.loads((tmp_path / "versions.json").read_text())["torch"] == torch.__version__.partition("+")[0]
    assert list((tmp_path / "tensorboard").iterdir())


def test_one_decoder_of_two_is_exported_by_its_cell(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=1, cells=("lstm", "gru"))
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    with pytest.raises(UsageError, match="lstm and gru: choose one with --cell"):
        export_bundle(tmp_path, encoder, "two", tmp_path / "bundles")
    bundle = export_bundle(tmp_path, encoder, "two", tmp_path / "bundles", cell="gru")
    assert bundle.description["decoder"]["cell"] == "gru"


def test_a_run_of_an_earlier_preprocessing_is_exported_for_the_present_one(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    """A run does not say how its images were prepared: the weights are right for both, so it is not trained again."""
    run_training(
        [DataFolder(corpus)], encoder, dataclasses.replace(MEMORISING, epochs=1), tmp_path, cache, resume=False
    )
    assert "preprocessing" not in json.loads((tmp_path / "run.json").read_text())
    export_bundle(tmp_path, encoder, "again", tmp_path / "bundles").require_current()


def test_a_bundle_is_exported_next_to_the_bundle_that_provides_its_encoder(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    run_training(
        [DataFolder(corpus)], encoder, dataclasses.replace(MEMORISING, epochs=1), tmp_path / "run", cache, resume=False
    )
    first = export_bundle(tmp_path / "run", encoder, "first", tmp_path / "bundles")
    same_encoder = open_encoder(first.folder, None, cache)
    export_bundle(tmp_path / "run", same_encoder, "second", tmp_path / "bundles").verify()
    export_bundle(tmp_path / "run", same_encoder, "first", tmp_path / "bundles").verify()


# -- resuming --

# sums in another order, of another number of threads, differ in their last bits
INTERRUPTED: dict[str, Any] = {"epochs": 4, "scst_epochs": 4, "hidden_size": 32, "keep_last": True, "threads": 1}
PIXELS: dict[str, Any] = {
    "epochs": 2, "hidden_size": 32, "keep_last": True, "encoder_learning_rate": 1e-3, "tune_from": "layer4",
    "train_size": 64, "val_limit": 1, "threads": 1,
}  # fmt: skip
KILLED_RUN = """
import dataclasses, os, signal, sys
from pathlib import Path
import torch
from tests.training.conftest import MEMORISING
from tests.training import test_train
from training.data.data_sets import DataFolder
from training.data.encoders import open_encoder
from training.fit.train import run_training
corpus, cache, run, epoch, changes = sys.argv[1:]
save = torch.save
def save_until_killed(checkpoint, file):
    if len((Path(run) / "log.jsonl").read_text().splitlines()) >= int(epoch):
        file.write(b"half of a checkpoint")
        os.kill(os.getpid(), signal.SIGKILL)
    save(checkpoint, file)
torch.save = save_until_killed
config = dataclasses.replace(MEMORISING, **getattr(test_train, changes))
encoder = open_encoder(Path("lstm"), None, Path())
run_training([DataFolder(Path(corpus))], encoder, config, Path(run), Path(cache), resume=False)
"""


@pytest.fixture(scope="session")
def complete_run(corpus: Path, encoder: EncoderFile, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    run = tmp_path_factory.mktemp("complete")
    run_training(
        [DataFolder(corpus)], encoder, dataclasses.replace(MEMORISING, **INTERRUPTED), run, cache, resume=False
    )
    return run


@pytest.mark.processes
@pytest.mark.parametrize(
    "epoch",
    [
        pytest.param(2, marks=pytest.mark.slow, id="cross-entropy"),
        pytest.param(5, marks=pytest.mark.slow, id="start of SCST"),
        pytest.param(7, id="SCST"),
    ],
)
def test_a_killed_run_ends_with_the_same_weights_as_a_complete_run(
    epoch: int, corpus: Path, encoder: EncoderFile, cache: Path, complete_run: Path, tmp_path: Path
) -> None:
    """The kill comes at the worst moment: the epoch's best weights are written, its checkpoint only in part."""
    kill_run("INTERRUPTED", epoch, corpus, cache, tmp_path)
    assert len(list(tmp_path.glob(".captionmill-*"))) == 1
    run_training(
        [DataFolder(corpus)], encoder, dataclasses.replace(MEMORISING, **INTERRUPTED), tmp_path, cache, resume=True
    )
    assert_same_weights(tmp_path, complete_run)
    assert not list(tmp_path.glob(".captionmill-*")), "a resumed run deletes what the killed one left"


def kill_run(changes: str, epoch: int, corpus: Path, cache: Path, run: Path) -> None:
    words = ["-c", KILLED_RUN, str(corpus), str(cache), str(run), str(epoch), changes]
    killed = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def assert_same_weights(run: Path, other: Path) -> None:
    last, expected_last = (torch.load(folder / LAST, weights_only=True)["network"] for folder in (run, other))
    best, expected_best = (load_file(folder / BEST) for folder in (run, other))
    assert last.keys() == expected_last.keys()
    assert all(torch.equal(last[name], expected_last[name]) for name in expected_last)
    assert all(torch.equal(best[name], expected_best[name]) for name in expected_best)


@pytest.mark.processes
def test_a_killed_run_from_pixels_ends_with_the_same_weights_as_a_complete_run(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config, folders = dataclasses.replace(MEMORISING, **PIXELS), [DataFolder(corpus)]
    run_training(folders, encoder, config, tmp_path / "complete", cache, resume=False)
    kill_run("PIXELS", 2, corpus, cache, tmp_path / "killed")
    run_training(folders, encoder, config, tmp_path / "killed", cache, resume=True)
    assert_same_weights(tmp_path / "killed", tmp_path / "complete")
    written = [(tmp_path / run / "encoder.safetensors").read_bytes() for run in ("complete", "killed")]
    assert written[0] == written[1]


@pytest.mark.heavy
@pytest.mark.skipif(best_precision("cpu") != "fp32", reason="in bfloat16 the signs of small gradients are noise")
def test_a_step_from_pixels_without_augmentation_equals_one_from_cached_maps(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    cached = dataclasses.replace(MEMORISING, epochs=1, views=1, dropout=0.0, encoder_learning_rate=1e-3, warmup_steps=1)
    pixels = dataclasses.replace(cached, tune_from="layer4", smallest_crop=1.0, mirrored=0.0, light=0.0)
    for name, config in (("cached", cached), ("pixels", pixels)):
        run_training([DataFolder(corpus)], encoder, config, tmp_path / name, cache, resume=False)
    assert [len(read_log(tmp_path / name)) for name in ("cached", "pixels")] == [1, 1]
    one, two = (torch.load(tmp_path / name / LAST, weights_only=True)["network"] for name in ("cached", "pixels"))
    start = {f"trunk.tuned.{name}": value for name, value in load_weights(encoder.weights).items()}
    for name in set(one) & set(start):
        step, other_step = one[name] - start[name], two[name] - start[name]
        if step.dim() > 1:  # Adam's first step has the sign of the gradient, which is noise where that is tiny
            assert torch.cosine_similarity(step.flatten(), other_step.flatten(), 0) > 0.95, name
    losses = [read_log(tmp_path / name)[0]["loss"] for name in ("cached", "pixels")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_tuning_from_pixels_changes_the_given_stages_and_those_after_them(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        MEMORISING, epochs=1, scst_epochs=1, encoder_learning_rate=1e-2, tune_from="layer3", train_size=64
    )
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    before, after = load_weights(encoder.weights), load_weights(tmp_path / "encoder.safetensors")
    changed = {name.partition(".")[0] for name in before if not torch.allclose(before[name], after[name], rtol=1e-3)}
    assert changed == {"layer3", "layer4"}
    with pytest.raises(UsageError, match="give the encoder a learning rate too, --tune-encoder"):
        dataclasses.replace(config, encoder_learning_rate=0.0)


def test_a_run_that_was_started_before_a_setting_existed_resumes_with_its_default(
    corpus: Path, encoder: EncoderFile, cache: Path, complete_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(complete_run, tmp_path / "run")
    started = json.loads((run / CONFIG).read_text())
    del started["config"]["temperature"]
    (run / CONFIG).write_text(json.dumps(started))
    config = dataclasses.replace(MEMORISING, **INTERRUPTED)
    run_training([DataFolder(corpus)], encoder, config, run, cache, resume=True)
    with pytest.raises(UsageError, match="was started with other settings"):
        run_training(
            [DataFolder(corpus)], encoder, dataclasses.replace(config, temperature=0.5), run, cache, resume=True
        )


def test_a_run_resumes_only_when_asked_and_with_its_own_settings(corpus: Path, cache: Path, tmp_path: Path) -> None:
    runner = CliRunner(tmp_path / "data", in_process=True)
    words = ["train", "--data", str(corpus), "--encoder", "lstm", "--epochs", "1", "--hidden", "32"]
    words += ["--cache", str(cache), "--run", str(tmp_path / "run")]
    assert runner.run("training", *words).code == 0
    again = runner.run("training", *words)
    assert again.code == 2
    assert "contains a run already: add --resume" in again.err
    other = runner.run("training", *words, "--resume", "--seed", "2")
    assert other.code == 2
    assert "was started with other settings" in other.err


def test_a_run_resumes_only_with_its_own_captions(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config, run = dataclasses.replace(MEMORISING, epochs=1), tmp_path / "run"
    run_training([DataFolder(corpus)], encoder, config, run, cache, resume=False)
    other = shutil.copytree(corpus, tmp_path / "other")
    text = (other / "captions.txt").read_text()
    (other / "captions.txt").write_text(text.replace("cup of coffee", "mug of coffee"))
    with pytest.raises(UsageError, match="was started on other images or captions"):
        run_training([DataFolder(other)], encoder, config, run, cache, resume=True)


def test_a_damaged_checkpoint_is_reported_with_its_path(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=1)
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    (tmp_path / LAST).write_bytes(b"PK damaged")
    with pytest.raises(UsageError, match=r"cannot read the checkpoint .*last\.pt"):
        run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=True)


def test_a_checkpoint_of_another_version_is_reported_with_its_path(
    corpus: Path, encoder: EncoderFile, cache: Path, complete_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(complete_run, tmp_path / "run")
    checkpoint = torch.load(run / LAST, weights_only=True)
    rename_first(checkpoint["network"])
    torch.save(checkpoint, run / LAST)
    with pytest.raises(UsageError, match=r"the checkpoint .*last\.pt is of another version"):
        run_training(
            [DataFolder(corpus)], encoder, dataclasses.replace(MEMORISING, **INTERRUPTED), run, cache, resume=True
        )


def rename_first(values: dict[str, Any]) -> None:
    name = next(iter(values))
    values[f"{name}_old"] = values.pop(name)


@pytest.mark.parametrize("part", ["weights", "sizes"])
def test_a_finished_run_of_another_version_is_reported_in_one_line(
    part: str, encoder: EncoderFile, complete_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(complete_run, tmp_path / "run")
    if part == "weights":
        weights = load_file(run / BEST)
        rename_first(weights)
        save_file(weights, run / BEST)
    else:
        about = json.loads((run / ABOUT).read_text())
        rename_first(about["decoders"]["lstm"])
        (run / ABOUT).write_text(json.dumps(about))
    with pytest.raises(
        UsageError, match=r"^cannot load the decoders of .*: .* of another version\. Train them again\.$"
    ):
        export_bundle(run, encoder, "old", tmp_path / "bundles")


def test_a_wrong_data_folder_leaves_no_run_folder(encoder: EncoderFile, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the data folder"):
        run_training([DataFolder(tmp_path / "typo")], encoder, MEMORISING, tmp_path / "run", cache, resume=False)
    assert not (tmp_path / "run").exists()


# -- starting from a trained model --


def test_a_model_is_trained_further_with_its_own_vocabulary(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    bundle = find_bundles()["gru"]
    config = TrainConfig(cells=("gru",), epochs=1, learning_rate=0.0, start=str(bundle.folder))
    about = run_training([DataFolder(corpus)], encoder, config, tmp_path / "run", cache, resume=False)
    assert about["vocabulary"] == bundle.description["vocabulary"]
    before, after = load_weights(bundle.decoder_file), load_file(tmp_path / "run" / BEST)
    assert all(torch.equal(before[name], after[f"decoders.gru.{name}"]) for name in before)
    exported = export_bundle(tmp_path / "run", encoder, "own", tmp_path / "bundles")
    card = " ".join((exported.folder / "CARD.md").read_text().split())
    assert "a model trained on 6000 images of Flickr8k and 909 images of COCO; their terms apply too" in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": ("lstm",)}, "no lstm decoder, only gru"),
        ({"hidden_size": 256}, r"has another kind or size: .* is \(.*\), not \(.*\)"),
        ({"start": "empty"}, "contains no finished run"),
    ],
)
def test_a_model_that_does_not_fit_the_config_cannot_be_trained_further(
    change: dict[str, Any], message: str, corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = TrainConfig(cells=("gru",), epochs=1, start=str(find_bundles()["gru"].folder))
    with pytest.raises(UsageError, match=message):
        run_training(
            [DataFolder(corpus)], encoder, dataclasses.replace(config, **change), tmp_path / "run", cache, resume=False
        )


def test_a_distilled_decoder_learns_what_its_beam_search_wrote_before_and_not_the_captions_of_the_data(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(corpus, tmp_path / "other")
    captions = (corpus / "captions.txt").read_text().replace("A rocket stands on", "A woman looks at")
    (other / "captions.txt").write_text(captions)
    before = dataclasses.replace(MEMORISING, epochs=30)
    run_training([DataFolder(corpus)], encoder, before, tmp_path / "before", cache, resume=False)
    after = dataclasses.replace(MEMORISING, epochs=8, start=str(tmp_path / "before"))
    for name, config in (("distilled", dataclasses.replace(after, distilled=True)), ("taught", after)):
        run_training([DataFolder(other)], encoder, config, tmp_path / name, cache, resume=False)
    samples = {name: (tmp_path / name / "samples.md").read_text() for name in ("distilled", "taught")}
    assert "- lstm: a rocket stands on its launch pad at night\n" in samples["distilled"]
    assert "- lstm: a woman looks at its launch" in samples["taught"]


# -- several data sets --


def test_the_log_has_the_scores_of_each_data_set_and_the_run_their_sizes(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(corpus, tmp_path / "other")
    config = dataclasses.replace(MEMORISING, epochs=1, cells=("lstm", "gru"), hidden_size=32)
    folders, run = [DataFolder(corpus), DataFolder(other, 2.0)], tmp_path / "run"
    about = run_training(folders, encoder, config, run, cache, resume=False)
    sets = about["images"]["sets"]
    assert [(part["name"], part["weight"], part["train"]) for part in sets] == [(corpus.name, 1, 4), ("other", 2, 4)]
    assert set(read_log(run)[0]["val"]["gru"]["sets"]) == {corpus.name, "other"}
    assert about["val"]["lstm"]["images"] == 8
    assert "lstm/sets" not in (run / "log.csv").read_text(), "the table has numbers only"
    with pytest.raises(UsageError, match="was started with other settings"):
        run_training([DataFolder(corpus), DataFolder(other)], encoder, config, run, cache, resume=True)


# -- several processes --


def test_processes_get_different_shares_of_each_batch(corpus: Path, encoder: EncoderFile, cache: Path) -> None:
    config = dataclasses.replace(MEMORISING, batch_size=3, views=2)
    data = prepare([DataFolder(corpus)], encoder, config, cache)
    whole = [list(zip(b.names, b.views, strict=True)) for b in batches(data, config, 1)]
    shares = [[list(zip(b.names, b.views, strict=True)) for b in batches(data, config, 1, rank, 2)] for rank in (0, 1)]
    assert len(whole) == steps_of(data, config) == 2
    assert len(shares[0]) == len(shares[1]) == steps_of(data, config, 2) == 1  # one image cannot be shared
    assert sorted(shares[0][0] + shares[1][0]) == sorted(whole[0])


FROM_PIXELS = ("--tune-encoder", "1e-4", "--tune-from", "layer4", "--set", "train_size=64",
               "--set", "encoder_freeze_epochs=1", "--set", "smallest_crop=1")  # fmt: skip


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("options", [(), FROM_PIXELS], ids=["features", "pixels"])
def test_two_processes_learn_about_the_same_as_one(
    options: tuple[str, ...], corpus: Path, cache: Path, tmp_path: Path
) -> None:
    runner = CliRunner(tmp_path)
    words = ["train", "--data", str(corpus), "--encoder", "lstm", "--epochs", "2", "--hidden", "32"]
    words += ["--cache", str(cache), "--set", "warmup_steps=1"]
    words += ["--set", "dropout=0", *options]  # the processes draw different dropout masks
    for devices in ("1", "2"):
        result = runner.run("training", *words, "--devices", devices, "--run", str(tmp_path / devices))
        assert result.code == 0, result.err
        assert result.out.count("best epoch") == 1
    torch.manual_seed(1)
    shape = json.loads((tmp_path / "1" / "run.json").read_text())["decoders"]["lstm"]
    initial = make_decoder(DecoderConfig(**shape)).output_projection.weight.detach()
    name = "decoders.lstm.output_projection.weight"
    changes = [
        torch.load(tmp_path / devices / LAST, weights_only=True)["network"][name] - initial for devices in ("1", "2")
    ]
    assert torch.cosine_similarity(changes[0].flatten(), changes[1].flatten(), 0) > 0.8
