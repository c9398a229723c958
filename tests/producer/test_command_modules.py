"""The command line of `producer` imports one module of commands, which is the one with the command that is run."""

import importlib

import pytest
import typer

from producer import cli
from producer.cli import MODULES, modules_for


def names(app: typer.Typer) -> list[str]:
    tree = typer.main.get_command(app)
    return list(getattr(tree, "commands", {}))


def test_every_command_is_in_the_table_and_the_help_has_their_order() -> None:
    assert names(cli.app) == " ".join(MODULES.values()).split()


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_the_commands_of_the_table(module: str) -> None:
    of_module = importlib.import_module(f"producer.commands.{module}").__name__
    groups = cli.app.registered_commands
    found = {
        typer.main.get_command_name(command.name or command.callback.__name__)
        for command in groups
        if command.callback is not None and command.callback.__module__ == of_module
    }
    assert found == set(MODULES[module].split()) - {"db"}


@pytest.mark.parametrize(
    ("line", "modules"),
    [
        ("submit folder --wait", ["submit"]),
        ("db upgrade", ["upkeep"]),
        ("--version", []),
        ("", list(MODULES)),
        ("--help", list(MODULES)),
        ("sumbit folder", list(MODULES)),  # the message names the nearest command
    ],
)
def test_a_command_line_needs_the_module_of_its_command_or_all(line: str, modules: list[str]) -> None:
    assert modules_for(line.split()) == modules
