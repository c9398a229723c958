"""The README fits on a screen or two, and its commands work."""

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import PROJECT, code_lines, command_of, section
from tests.journeys.cli_runner import CliRunner

README = PROJECT / "README.md"


def test_the_readme_has_at_most_100_lines_of_100_columns() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.processes
def test_the_commands_for_your_own_images_caption_search_and_export_a_folder(tmp_path: Path, photographs: Path) -> None:
    shutil.copytree(photographs, tmp_path / "images")
    runner = CliRunner(tmp_path / "data", with_compiled_model=True)
    commands = [words for line in code_lines(section(README, "Your own images")) if (words := command_of(line))]
    assert [words[:2] for words in commands] == [("producer", verb) for verb in ("submit", "search", "export")]
    results = [runner.run(*words, cwd=tmp_path) for words in commands]
    assert [result.code for result in results] == [0, 0, 0], results
    for part in ("10 captioned", "coffee.png", "producer search", str(runner.data / "captions.sqlite")):
        assert part in results[0].out
    assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == 10
