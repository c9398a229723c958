"""The source files of the product, parsed."""

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PACKAGES = ("captioning", "producer", "worker", "training", "migrations")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the path of each source file, relative to the project, with its syntax tree."""
    yield "captionmill.py", ast.parse((PROJECT / "captionmill.py").read_text(encoding="utf-8"))
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), ast.parse(path.read_text(encoding="utf-8"))
