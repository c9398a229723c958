"""What a person types, and what they are told when it is wrong."""

import functools
import json
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captioning.errors import UsageError
from tests.journeys.cli_runner import CliRunner
from tests.training.conftest import SAID, VAL
from training.cli import app
from training.config import TrainConfig
from training.data.download import Source, fetch
from training.data.encoders import EncoderFile
from training.fit.tune import search

RUN = ["--data", "CORPUS", "--encoder", "/none", "--run", "r"]
MISTAKES = [
    (["train", "--data", "/none", "--encoder", "/none", "--run", "r"], "no encoder at /none"),
    (["train", *RUN, "--cell", "rnn"], "lstm, gru or both, not rnn"),
    (["train", *RUN, "--set", "colour=blue"], "names are kind"),
    (["evaluate", "blip", "--data", "CORPUS"], "no model named 'blip'"),
    (["evaluate", "flickr8k-gru", "--data", "CORPUS", "--split", "dev"], "train, val or test, not 'dev'"),
    (["evaluate", "flickr8k-gru", "--data", "CORPUS", "--split", "test"], "has no test split"),
    (["info", "blip"], "no model named 'blip'"),
    (["fetch", "coco", "-o", "x"], "no 'coco' to fetch; there are flickr8k, imagenet-v1, imagenet-v2"),
    (["export", "--run", "/none", "--encoder", "/none", "--name", "x", "-o", "y"], "no encoder at /none"),
]


@pytest.mark.parametrize(
    ("words", "says"), [pytest.param(*it, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, it in enumerate(MISTAKES)]
)
def test_the_command_line_of_training_explains_its_mistakes(
    tmp_path: Path, corpus: Path, words: list[str], says: str
) -> None:
    words = [str(corpus) if word == "CORPUS" else word for word in words]
    said = CliRunner(tmp_path).run("training", *words, cwd=tmp_path)
    assert said.code == 2, said
    assert says in " ".join(said.err.split())
    assert said.out == ""
    assert "Traceback" not in said.err


def test_every_command_of_training_has_an_example(tmp_path: Path) -> None:
    assert "Example: training compare" in CliRunner(tmp_path).run("training", "compare", "--help").out
    assert all((command.epilog or "").startswith("Example: training ") for command in app.registered_commands)


def test_info_tells_which_images_a_model_learned_from(tmp_path: Path) -> None:
    told = json.loads(CliRunner(tmp_path).run("training", "info", "flickr8k-gru").out)
    assert told["name"] == "flickr8k-gru"
    assert len(told["provenance"]["images"]["digest"]) == 64


def test_a_built_in_model_is_scored_by_the_products_own_path(tmp_path: Path, corpus: Path) -> None:
    person = CliRunner(tmp_path, experienced=True)
    words = ["evaluate", "flickr8k-lstm", "--data", str(corpus), "--cache", str(tmp_path), "-o", str(tmp_path / "out")]
    said = person.run("training", *words)
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert (told["split"], told["images"], told["beam_size"]) == ("val", 4, 3)
    assert told["habits"]["words_used"] > 4
    assert set(told["confidence"]) == {"caption_error", "word_error", "captions_good", "words_right"}
    evaluated = {line["image"]: line for line in map(json.loads, (tmp_path / "out").read_text().splitlines())}
    assert set(evaluated) == set(VAL)
    person.submit(str(corpus / "Images" / "val-chelsea.png"))
    served = person.producer("export").lines[0]
    assert evaluated["val-chelsea.png"]["caption"] == served["caption"]
    assert evaluated["val-chelsea.png"]["confidence"] == pytest.approx(served["confidence"], abs=0.02)


def test_a_search_goes_on_and_counts_what_it_did_before(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=1, min_count=1, warmup_steps=1)
    search(corpus, encoder, config, tmp_path, cache, 2)
    best = search(corpus, encoder, config, tmp_path, cache, 3)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"trial-0", "trial-1", "trial-2"}
    assert Path(best["run"]).parent == tmp_path
    assert {"cider", "learning_rate", "optimizer", "hidden_size"} <= set(best)
    tried = [json.loads((tmp_path / f"trial-{i}" / "config.json").read_text())["config"] for i in range(3)]
    assert len({one["learning_rate"] for one in tried}) == 3
    assert search(corpus, encoder, config, tmp_path, cache, 3) == best


def test_a_corpus_is_fetched_unpacked_and_read(corpus: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "text.zip", "w") as archive:
        for path in (corpus / "captions.txt", *corpus.glob("Flickr_8k*")):
            archive.write(path, path.name)
    with zipfile.ZipFile(served / "images.zip", "w") as archive:
        for name in (*SAID, *VAL):
            archive.write(corpus / "Images" / name, f"Images/{name}")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        sources = {"mine": Source((f"{base}/text.zip", f"{base}/images.zip"), "for tests")}
        said = fetch("mine", tmp_path / "got", sources)
        assert said.startswith("mine: 4 training, 4 val and 0 test images in ")
        with pytest.raises(UsageError, match=r"can't fetch .*gone\.zip"):
            fetch("mine", tmp_path / "other", {"mine": Source((f"{base}/gone.zip",), "")})
        server.shutdown()
