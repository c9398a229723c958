"""captioning.errors defines every exception of the product, and its docstring draws them as a tree."""

import ast
import builtins
import re

from captioning import errors
from tests.core.sources import modules


def draw(cls: type[BaseException], first_prefix: str = "", prefix: str = "") -> list[str]:
    """Draw a class and its subclasses in captioning.errors as a tree, one class per line."""
    subclasses = [other for other in vars(errors).values() if isinstance(other, type) and cls in other.__bases__]
    lines = [first_prefix + cls.__name__]
    for subclass in subclasses:
        branch, rest = ("└── ", "    ") if subclass is subclasses[-1] else ("├── ", "│   ")
        lines += draw(subclass, prefix + branch, prefix + rest)
    return lines


def is_exception(base: ast.expr) -> bool:
    """Return whether a base class is an exception, or has a name that says so."""
    name = ast.unparse(base).rpartition(".")[2]
    known = getattr(builtins, name, None) or getattr(errors, name, None)
    is_known = isinstance(known, type) and issubclass(known, BaseException)
    return is_known or name.endswith(("Error", "Exception", "Interrupt"))


def test_the_docstring_draws_the_tree_of_exceptions() -> None:
    summary, blank, *lines = (errors.__doc__ or "").strip().splitlines()
    assert summary
    assert not blank
    matches = [re.fullmatch(r"([│├└─ ]*\w+) {2,}(\S.*)", line) for line in lines]
    assert [match and match[1] for match in matches] == draw(errors.CaptioningError)


def test_every_exception_is_defined_in_captioning_errors() -> None:
    elsewhere = [
        f"{path}: {node.name}"
        for path, tree in modules()
        if path != "captioning/errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(map(is_exception, node.bases))
    ]
    assert elsewhere == []
