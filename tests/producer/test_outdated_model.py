"""A model for images that are prepared in another way is refused at once in one line; other models go on."""

import json
import shutil
from pathlib import Path

import pytest

from captioning.bundles import BUILT_IN
from scripts.scenes import saved, scene
from tests.journeys.cli_runner import CliRunner

REMEDY = (
    "preprocessing.version: this captionmill prepares images as in version 2, not 1."
    " Export it again from its run: `training export --run RUN --name theirs -o FOLDER`."
)


@pytest.fixture
def runner(tmp_path: Path) -> CliRunner:
    """Return a runner whose data folder has a model of version 1, called theirs."""
    models = tmp_path / "data" / "models"
    shutil.copytree(BUILT_IN, models)
    shutil.rmtree(models / "lstm")
    (models / "gru").rename(models / "theirs")
    path = models / "theirs" / "bundle.json"
    description = json.loads(path.read_text()) | {"name": "theirs"}
    description["preprocessing"]["version"] = 1
    path.write_text(json.dumps(description))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(saved(scene(), "JPEG"))
    return CliRunner(tmp_path / "data", in_process=True)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("producer", ["submit", "images", "--model", "theirs"]),
        ("producer", ["submit", "images", "--model", "theirs", "--dry-run"]),
        ("training", ["evaluate", "theirs", "--data", "images"]),
        ("training", ["evaluate", "data/models/theirs", "--data", "images"]),
        ("training", ["calibrate", "data/models/theirs", "--data", "images"]),
    ],
)
def test_a_command_that_would_caption_with_it_ends_at_once_with_the_remedy(
    runner: CliRunner, tmp_path: Path, program: str, words: list[str]
) -> None:
    result = runner.run(program, *words, cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert result.err.strip().endswith(REMEDY)
    assert not (tmp_path / "data" / "captions.db").exists()


@pytest.mark.parametrize(
    ("program", "words"), [("producer", ["models"]), ("producer", ["doctor"]), ("worker", ["doctor"])]
)
def test_a_command_that_lists_models_says_why_it_is_left_out(
    runner: CliRunner, tmp_path: Path, program: str, words: list[str]
) -> None:
    result = runner.run(program, *words, cwd=tmp_path)
    assert result.code == 0, result
    assert "theirs" not in result.out
    assert "lstm" in result.out
    assert [line for line in result.err.splitlines() if line.startswith("left out: ") and line.endswith(REMEDY)]


def test_as_the_default_model_it_is_refused_by_all(runner: CliRunner, tmp_path: Path) -> None:
    runner.environment["CAPTIONING_MODEL"] = "theirs"
    for program, words in (("producer", ["submit", "images"]), ("worker", ["doctor"])):
        result = runner.run(program, *words, cwd=tmp_path)
        assert (result.code, REMEDY in result.err.splitlines()[-1]) == (1, True), result
    doctor = runner.producer("doctor", cwd=tmp_path)
    assert doctor.code == 1
    assert "preprocessing.version" in doctor.out


def test_a_command_that_uses_another_model_says_nothing_of_it(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.producer("submit", "images", "--dry-run", cwd=tmp_path)
    assert result.code == 0, result
    assert "theirs" not in result.out + result.err
