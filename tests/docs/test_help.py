"""`--help`, `--version` and completion of the three programs, on terminals of all widths."""

import re
from pathlib import Path
from typing import Any

import pytest

import producer.cli
import training.cli
import worker.cli
from captioning import __version__
from captioning.command_tree import command_tree
from tests.journeys.cli_runner import CliRunner

APPS = {"producer": producer.cli.app, "worker": worker.cli.app, "training": training.cli.app}


def paths(words: tuple[str, ...], command: Any) -> list[tuple[str, ...]]:
    """Return the words that call a command and each command below it."""
    below = getattr(command, "commands", {}).items()
    return [words, *(path for name, subcommand in below for path in paths((*words, name), subcommand))]


ALL = [path for name, app in APPS.items() for path in paths((name,), command_tree(app))]
GROUPS = [("producer",), ("producer", "db"), ("training",)]


@pytest.fixture
def cli(tmp_path: Path) -> CliRunner:
    return CliRunner(tmp_path / "data", in_process=True)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_without_broken_words_at_every_width(cli: CliRunner, words: tuple[str, ...]) -> None:
    cli.environment["COLUMNS"] = "400"
    whole = cli.run(*words, "--help")
    assert whole.code == 0
    for columns in (50, 80, 160):
        cli.environment["COLUMNS"] = str(columns)
        text = cli.run(*words, "-h").out
        assert set(re.split(r"[\s-]+", text)) == set(re.split(r"[\s-]+", whole.out))
        assert max(map(len, text.splitlines())) <= columns
        assert "<bool>" not in text
        assert "2147483647" not in text


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_tells_the_version(cli: CliRunner, words: tuple[str, ...]) -> None:
    assert cli.run(*words, "--version").out == f"captionmill {__version__}\n"


@pytest.mark.parametrize("words", GROUPS, ids=" ".join)
def test_a_program_without_a_command_prints_its_help_and_nothing_else(cli: CliRunner, words: tuple[str, ...]) -> None:
    result = cli.run(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err == cli.run(*words, "--help").out


@pytest.mark.parametrize("program", APPS)
def test_every_program_prints_a_script_that_completes_it(cli: CliRunner, program: str) -> None:
    cli.environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"  # the shell is named instead
    assert f"_{program.upper()}_COMPLETE=complete_bash" in cli.run(program, "--show-completion", "bash").out


def test_bash_is_given_the_commands_that_begin_with_what_was_typed(cli: CliRunner) -> None:
    cli.environment |= {"_PRODUCER_COMPLETE": "complete_bash", "COMP_WORDS": "producer res", "COMP_CWORD": "1"}
    assert cli.run("producer").out.split() == ["resume"]
    cli.environment |= {"COMP_WORDS": "producer submit --beam", "COMP_CWORD": "2"}
    assert cli.run("producer").out.split() == ["--beam-size"]


def test_a_usage_line_names_the_arguments_and_which_may_be_left_out(cli: CliRunner) -> None:
    assert cli.run("producer", "pause", "-h").out.startswith("Usage: producer pause [OPTIONS] JOB\n")
    assert cli.run("producer", "submit", "-h").out.startswith("Usage: producer submit [OPTIONS] [PATH]...\n")
