"""The command line of `producer`: the commands are in `producer.commands`.

Only the module of the command that is run is imported, because all of them together take a second.
"""

import importlib
import sys
from typing import Any

from captioning.cli import command_line

MODULES = {  # and their commands, in the order of the help
    "submit": "submit",
    "plan": "plan",
    "watch": "watch",
    "jobs": "status jobs pause resume cancel retry failures",
    "captions": "search show list stats diff",
    "similar": "similar duplicates",
    "gallery": "gallery",
    "review": "review",
    "export": "export",
    "edits": "correct accept reject replace import undo",
    "upkeep": "forget models doctor db",
}


def __getattr__(name: str) -> Any:
    """Return `app`, the program with all its commands."""
    if name != "app":
        raise AttributeError(name)
    return app_with(list(MODULES))


def app_with(modules: list[str]) -> Any:
    """Return the program with the commands of some modules."""
    for module in modules:
        importlib.import_module(f"producer.commands.{module}")
    from producer.commands.shared import app, db_app

    if "upkeep" in modules and all(group.typer_instance is not db_app for group in app.registered_groups):
        app.add_typer(db_app, name="db")
    return app


def modules_for(arguments: list[str]) -> list[str]:
    """Return the modules that a command line needs: one if it begins with a command, otherwise all, for the help."""
    first = arguments[0] if arguments else ""
    needed = [module for module, commands in MODULES.items() if first in commands.split()]
    return needed if needed or first == "--version" else list(MODULES)


def main() -> None:
    """Run `producer`."""
    command_line(app_with(modules_for(sys.argv[1:])), "producer")
