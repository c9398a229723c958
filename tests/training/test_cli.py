"""The commands of `training`: their results, and their messages for wrong usage."""

import functools
import json
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import optuna
import pytest

from captioning.bundles import find_bundles
from captioning.errors import UsageError
from captioning.model.pixels import open_image
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.values import DecodeOptions
from tests.journeys.cli_runner import CliRunner
from tests.training.conftest import CAPTIONS, VAL
from training.cli import app, print_values
from training.config import TrainConfig
from training.data.data_sets import DataFolder
from training.data.download import Source, fetch
from training.data.encoders import EncoderFile
from training.fit.tune import STUDY, search

TRAIN = ["train", "--data", "CORPUS", "--encoder", "/none", "--run", "r"]
MISTAKES = [
    (TRAIN, "no encoder at /none"),
    ([*TRAIN, "--cell", "rnn"], "'rnn' is not one of 'lstm', 'gru', 'lstm,gru'"),
    ([*TRAIN, "--set", "colour=blue"], "names are kind"),
    ([*TRAIN, "--kind", "transformer"], "kind=transformer: kind must be one of plain, "),
    (["evaluate", "blip", "--data", "CORPUS"], "no model named 'blip'"),
    (["evaluate", "gru", "--data", "CORPUS", "--split", "dev"], "'dev' is not one of 'train', 'val', 'test'"),
    (["evaluate", "gru", "--data", "CORPUS", "--split", "test"], "has no test split"),
    (["info", "blip"], "no model named 'blip'"),
    (["fetch", "coco", "-o", "x"], "no 'coco' to fetch; choose one of flickr8k, imagenet-v1, imagenet-v2"),
    (["export", "--run", "/none", "--encoder", "/none", "--name", "x", "-o", "y"], "no encoder at /none"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_wrong_usage_ends_with_one_line_that_names_the_mistake(
    tmp_path: Path, corpus: Path, words: list[str], message: str
) -> None:
    runner = CliRunner(tmp_path / "data", in_process=True)
    words = [str(corpus) if word == "CORPUS" else word for word in words]
    result = runner.run("training", *words, cwd=tmp_path)
    assert result.code == 2
    assert message in result.err.splitlines()[-1]
    assert result.out == ""
    assert "Traceback" not in result.err


@pytest.mark.processes
def test_every_command_has_an_example_in_its_help(tmp_path: Path) -> None:
    assert "Example: training compare" in CliRunner(tmp_path).run("training", "compare", "--help").out
    assert all((command.epilog or "").startswith("Example: training ") for command in app.registered_commands)


@pytest.mark.processes
def test_info_identifies_the_images_that_a_model_was_trained_on(tmp_path: Path) -> None:
    result = CliRunner(tmp_path).run("training", "info", "gru").json
    assert result["name"] == "gru"
    assert len(result["provenance"]["images"]["digest"]) == 64


def test_evaluation_captions_an_image_as_the_product_does(tmp_path: Path, corpus: Path) -> None:
    runner = CliRunner(tmp_path, with_compiled_model=True, in_process=True)
    words = [
        "evaluate",
        "lstm",
        "--data",
        str(corpus),
        "--cache",
        str(tmp_path / "runtime"),
        "-o",
        str(tmp_path / "out"),
        "--json",
    ]
    result = runner.run("training", *words)
    assert result.code == 0, result.err
    scores = result.json
    assert (scores["split"], scores["images"], scores["beam_size"]) == ("val", 4, 3)
    assert scores["diversity"]["words_used"] > 4
    assert set(scores["confidence"]) == {"captions", "word_error", "words_right"}
    evaluated = {row["image"]: row for row in map(json.loads, (tmp_path / "out").read_text().splitlines())}
    assert set(evaluated) == set(VAL)
    captioner = load_captioner(find_bundles()["lstm"], choose_runtime(), runner.data / "runtime")
    image = (corpus / "Images" / "val-chelsea.png").read_bytes()
    pixels, _ = open_image(image, captioner.preprocessing.size)
    (served,) = captioner.caption([pixels], DecodeOptions())
    assert evaluated["val-chelsea.png"]["caption"] == served.text
    assert evaluated["val-chelsea.png"]["confidence"] == pytest.approx(served.confidence, abs=0.02)


def test_a_search_continues_and_counts_its_earlier_trials(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=1, min_count=1, warmup_steps=1)
    search([DataFolder(corpus)], encoder, config, tmp_path, cache, 2)
    best = search([DataFolder(corpus)], encoder, config, tmp_path, cache, 3)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"trial-0", "trial-1", "trial-2"}
    assert Path(best["run"]).parent == tmp_path
    assert {"cider", "learning_rate", "optimizer", "hidden_size"} <= set(best)
    configs = [json.loads((tmp_path / f"trial-{i}" / "config.json").read_text())["config"] for i in range(3)]
    assert len({config["learning_rate"] for config in configs}) == 3
    assert search([DataFolder(corpus)], encoder, config, tmp_path, cache, 3) == best
    study = optuna.load_study(study_name="captionmill", storage=f"sqlite:///{tmp_path / STUDY}")
    base = study.user_attrs["base"]
    del base["temperature"]  # as if this setting were newer than the study
    study.set_user_attr("base", base)
    assert search([DataFolder(corpus)], encoder, config, tmp_path, cache, 3) == best


@pytest.fixture
def archives(corpus: Path, tmp_path: Path) -> Iterator[str]:
    """The corpus as two archives, text.zip and images.zip, below a URL."""
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "text.zip", "w") as archive:
        for path in (corpus / "captions.txt", *corpus.glob("Flickr_8k*")):
            archive.write(path, path.name)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name in (*CAPTIONS, *VAL):
            archive.write(corpus / "Images" / name, f"Images/{name}")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_corpus_is_downloaded_and_unpacked(archives: str, tmp_path: Path) -> None:
    sources = {"mine": Source((f"{archives}/text.zip", f"{archives}/images.zip"), "for tests")}
    line = fetch("mine", tmp_path / "corpus", sources)
    assert line.startswith("mine: 4 training, 4 val and 0 test images in ")


def test_a_failed_download_is_reported_with_its_url(archives: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot fetch .*gone\.zip"):
        fetch("mine", tmp_path / "corpus", {"mine": Source((f"{archives}/gone.zip",), "")})


@pytest.mark.parametrize("words", [["train", "--run", "run"], ["tune", "--run", "run"], ["compare", "--run", "run"]])
def test_the_data_are_looked_at_before_an_encoder_is_downloaded(tmp_path: Path, words: list[str]) -> None:
    runner = CliRunner(tmp_path, in_process=True)
    result = runner.run("training", *words, "--data", str(tmp_path), "--encoder", "imagenet-v1", cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"training: no captions.txt, no Flickr8k.token.txt and no dataset*.json in {tmp_path}")


def test_results_are_a_table_with_a_line_for_each_number(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"cider": 0.123456, "diversity": {"words_used": 7, "overused": ["a man"]}}
    print_values(values, as_json=False)
    assert capsys.readouterr().out == "cider                 0.1235\ndiversity.words_used  7\n"
    print_values(values, as_json=True)
    assert json.loads(capsys.readouterr().out) == values


WRITER = """
import signal, sys, time
from pathlib import Path
from captioning.atomic import replacing
from training.cli import end_on_sigterm

end_on_sigterm()
with replacing(Path(sys.argv[1]) / "table") as unfinished:
    unfinished.write_bytes(b"features")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_sigterm_leaves_no_unfinished_file(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        writer.terminate()
        assert writer.wait() == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
