"""What processes do not import, or not yet, so that commands answer soon and a job's first caption is early."""

import subprocess
import sys

import pytest

TORCH = ("torch", "openvino")
HEAVY = (*TORCH, "sqlalchemy", "alembic", "celery", "numpy", "PIL")


@pytest.mark.parametrize(
    ("code", "not_imported"),
    [
        pytest.param("import producer.embedded.supervisor", (*HEAVY, "pydantic", "valkey"), id="supervisor"),
        pytest.param("import worker.cli, worker.environment", HEAVY, id="worker before its checks"),
        pytest.param("import worker.lifecycle, worker.checks", (*TORCH, "sqlalchemy", "PIL"), id="worker with Celery"),
        pytest.param("import worker.runner", TORCH, id="pool process before its decode process"),
        pytest.param("from producer.cli import *; app_with([])", HEAVY, id="producer --version"),
        pytest.param("from producer.cli import *; app_with(['submit'])", (*TORCH, "celery", "alembic"), id="submit"),
        pytest.param(
            "from producer.cli import *; app_with(['jobs', 'captions'])",
            (*TORCH, "celery", "alembic", "numpy", "PIL"),
            id="status and search",
        ),
    ],
)
def test_a_process_does_not_import_what_it_does_not_need_yet(code: str, not_imported: tuple[str, ...]) -> None:
    code += f"\nimport sys\nprint(*sorted({set(not_imported)!r}.intersection(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-P", "-c", code], text=True).strip() == ""
