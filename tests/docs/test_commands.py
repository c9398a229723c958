"""Every command, option, make target and file that a page names exists."""

import re
from typing import Any

import pytest

import producer.cli
import training.cli
import worker.cli
from captioning.command_tree import command_tree
from tests.docs.pages import PROJECT, Command, commands, pages

APPS = {"producer": producer.cli.app, "worker": worker.cli.app, "training": training.cli.app}
ALL = [command for page in pages() for command in commands(page)]


@pytest.mark.parametrize("command", [c for c in ALL if c.words[0] in APPS], ids=str)
def test_every_command_and_option_on_a_page_exists(command: Command) -> None:
    found: Any = command_tree(APPS[command.words[0]])
    words = list(command.words[1:])
    while words and words[0] != "--":
        word = words.pop(0)
        if word.startswith("-") and word != "-":
            option = _options(found)[word.partition("=")[0]]
            if option is not None and not option.is_flag and "=" not in word:
                words = words[1:]  # the option's value
        elif hasattr(found, "commands") and not word.startswith("["):  # "[OPTIONS]" in a usage line
            found = found.commands[word]


@pytest.mark.parametrize("command", [c for c in ALL if c.words[0] == "make"], ids=str)
def test_every_make_target_on_a_page_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in command.words[1:] if "=" not in word} <= set(targets)


@pytest.mark.parametrize("command", [c for c in ALL if c.words[0] in ("python", "pytest")], ids=str)
def test_every_module_and_script_on_a_page_exists(command: Command) -> None:
    words = command.words
    if "-m" in words:
        module = words[words.index("-m") + 1]
        file = PROJECT / f"{module.replace('.', '/')}.py"
        assert module == "pytest" or file.exists() or (file.with_suffix("") / "__main__.py").exists()
    assert all((PROJECT / word).exists() for word in words if word.endswith(".py") or word.startswith("tests/"))


def _options(command: Any) -> dict[str, Any]:
    """Return the options of a command by name."""
    options = {name: p for p in command.params if p.param_type_name == "option" for name in p.opts}
    return {"--help": None, "-h": None, **options}
