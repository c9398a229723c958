"""Only captioning.settings reads and sets environment variables."""

import ast

import pytest

from tests.core.sources import modules

NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def uses_of_the_environment(tree: ast.Module) -> list[int]:
    """Return the numbers of the lines that use os.environ or one of its functions, or import them."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in NAMES)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and any(a.name in NAMES for a in node.names))
    ]


def test_only_the_settings_use_the_environment() -> None:
    uses = {path: lines for path, tree in modules() if (lines := uses_of_the_environment(tree))}
    assert uses.keys() == {"captioning/settings.py"}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os\nos.environ['X']", [2]),
        ("import os as system\nsystem.getenv('X')", [2]),
        ("from os import path, environ as e", [1]),
        ("from worker.environment import worker_name\nenvironment = {}", []),
    ],
)
def test_the_check_finds_every_way_to_write_it(source: str, lines: list[int]) -> None:
    assert uses_of_the_environment(ast.parse(source)) == lines
