"""A runner for embedded mode."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.cli_runner import CliRunner
from tests.support.polling import wait_until


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[CliRunner]:
    """A runner without settings. At the end of the test all its processes must have ended."""
    runner = CliRunner(tmp_path / "data", with_compiled_model=True)
    yield runner
    wait_until(runner.has_no_processes, 15, "all processes to end")
