"""Only captioning.environment uses environment variables directly; it drops those of libraries."""

import ast
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from captioning.environment import drop_foreign_variables, is_foreign, take_unknown_settings
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


def test_only_one_module_uses_the_environment() -> None:
    uses = {path: lines for path, tree in modules() if (lines := uses_of_the_environment(tree))}
    assert uses.keys() == {"captioning/environment.py"}


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


HARMLESS = {  # variables that change nothing of what we do
    "C_FORCE_ROOT",  # Celery's permission to run as root with pickles, which are off
    "ITERM_PROFILE",
    "NO_COLOR",
    "NUMBER_OF_PROCESSORS",  # on Windows
    "TERM",
    "celery_dummy_proxy",  # Celery sets it itself
}


def variables_of(package: str) -> Iterator[str]:
    """Yield the names of the variables that a library reads, where its source code contains the name."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    for path in folder.rglob("*.py"):
        if not re.search("/(testing|contrib|transport/SLMQ|transport/gcpubsub)", str(path)):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = _variable(node)
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value


def _variable(node: ast.AST) -> ast.expr | None:
    """Return the name of the variable that a syntax node reads; None for other nodes."""
    if isinstance(node, ast.Call) and node.args and "env" in ast.unparse(node.func):
        return node.args[0]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
        return node.slice
    return node.value if isinstance(node, ast.keyword) and node.arg == "envvar" else None  # click's


@pytest.mark.parametrize(
    "package",
    ["celery", "kombu", "billiard", "vine", "redis", "psycopg", "alembic", "optuna", "fsspec", "s3fs", "aiobotocore",
     "botocore", "gcsfs"],
)  # fmt: skip
def test_every_variable_that_a_library_of_the_queue_the_store_and_buckets_reads_is_dropped(package: str) -> None:
    harmless = HARMLESS | {"OPENBLAS_NUM_THREADS", "PATH", "_X_AMZN_TRACE_ID", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE"}
    assert not [name for name in set(variables_of(package)) - harmless if not is_foreign(name)]


def test_the_search_finds_how_celery_and_click_read_variables() -> None:
    assert {"CELERY_BROKER_URL", "BROKER_URL", "C_FORCE_ROOT", "DJANGO_SETTINGS_MODULE"} <= {
        *variables_of("celery"),
        *variables_of("billiard"),
    }


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Restore after the test what it removes."""
    with patch.dict(os.environ):
        yield


def test_other_variables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"PGPASSWORD", "PGSSLROOTCERT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "FLOWER_BASIC_AUTH", "PYTHONPATH"}
    for name in (*kept, "CELERY_BROKER_URL", "PGHOSTADDR", "LT_DEVICES"):
        monkeypatch.setenv(name, "x")
    drop_foreign_variables()
    assert kept <= os.environ.keys()
    assert not os.environ.keys() & {"CELERY_BROKER_URL", "PGHOSTADDR", "LT_DEVICES"}


def test_unknown_settings_are_found_in_any_case_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAPTIONING_MODEL", "captioning_device", "CAPTIONING_MODLE", "captioning_x", "CAPTION_MODEL"):
        monkeypatch.setenv(name, "x")
    unknown = take_unknown_settings(["MODEL", "DEVICE", "DATA_DIR"])  # the tests of training set a data folder
    assert [name for name in unknown if "TEST" not in name] == ["CAPTIONING_MODLE", "captioning_x"]
    assert "CAPTIONING_MODLE" not in os.environ
    assert {"CAPTIONING_MODEL", "captioning_device", "CAPTION_MODEL"} <= os.environ.keys()


@pytest.mark.parametrize(
    ("library", "module"),
    [("openvino", "captioning/model/openvino_encoder.py"), ("matplotlib", "training/drawing.py")],
)
def test_only_one_module_imports_a_library_that_writes_into_the_home_folder(library: str, module: str) -> None:
    """It stops the library from that, and OpenVINO from speaking to Google."""
    importers = {
        path
        for path, tree in modules()
        for node in statements_that_run(tree)
        if (isinstance(node, ast.Import) and any(a.name.partition(".")[0] == library for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == library)
    }
    assert importers == {module}


def statements_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from statements_that_run(node)
