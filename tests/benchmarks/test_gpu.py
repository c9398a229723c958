"""The script that measures a GPU runs on a CPU from end to end, so that the time on a GPU is not spent on its bugs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.report import Report, Row


def test_a_row_that_cannot_be_measured_says_why_and_the_others_are_kept(tmp_path: Path) -> None:
    report = Report(tmp_path, {"device": "a test"}, seconds=60, row_seconds=0)
    report.measure("fast", lambda: 30.0, goal=20.0)
    report.measure("broken", lambda: 1 / 0)
    report.measure("small", lambda: 2.0, "GB", goal=1.0, at_most=True)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [(row["name"], row["value"], row["share"]) for row in rows] == [
        ("fast", 30.0, 1.5), ("broken", None, None), ("small", 2.0, 0.5)
    ]  # fmt: skip
    assert "| broken | - |  |  | ZeroDivisionError: division by zero |" in (tmp_path / "gpu.md").read_text()


def test_nothing_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    report = Report(tmp_path, {}, seconds=0, row_seconds=0)
    report.measure("late", lambda: 1.0)
    assert report.rows == [Row("late", None, note="TimeoutError: no time left")]


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--device", "cpu", "--quick"]
    subprocess.run(command, check=True)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["note"] for row in rows if row["value"] is None] == []
    assert {"second job, steady", "bare encoder and beam 3, batch 4"} <= {row["name"] for row in rows}
