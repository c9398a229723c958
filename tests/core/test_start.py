"""Programs and their children find our packages and not others of the same names; Ctrl-C never prints a traceback."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captioning.errors import CaptioningError
from captioning.settings import read_settings
from captioning.start import child_command
from captionmill import PACKAGES
from producer.embedded.client import EmbeddedClient
from tests.support.ctrl_c import accept_ctrl_c

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH in which packages of ours, of libraries and of Python exist too, as somebody else's."""
    for name in (*PACKAGES, "celery", "logging", "platform", "pydantic", "queue", "redis", "sqlalchemy", "typer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"print('the stranger {name}')\n")
    return tmp_path


def environment(data: Path, **changes: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONING_")}
    return inherited | {"CAPTIONING_DATA_DIR": str(data)} | changes


@pytest.mark.processes
@pytest.mark.parametrize("program", ["producer", "worker", "training"])
def test_a_program_finds_its_packages_although_pythonpath_has_others(program: str, strangers: Path) -> None:
    run = environment(strangers / "data", PYTHONPATH=str(strangers))
    done = subprocess.run([PROGRAMS / program, "--help"], env=run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stranger" not in done.stdout


@pytest.mark.processes
def test_a_child_finds_our_packages_and_ignores_libraries_variables(strangers: Path, tmp_path: Path) -> None:
    """A module of the test's own is the child: it shows what a child of ours sees."""
    (strangers / "probe.py").write_text(
        "import os, subprocess, sys\nimport training, migrations\n"
        "def main():\n"
        "    print('CELERY_BROKER_URL' in os.environ, training.__doc__, migrations.__name__, flush=True)\n"
        "    subprocess.run([sys.executable, '-c', 'import queue, redis'], check=True)\n"  # as billiard does
    )
    run = environment(tmp_path, PYTHONPATH=str(strangers), CELERY_BROKER_URL="redis://stranger")
    child = subprocess.run(child_command("probe"), env=run, capture_output=True, text=True, check=True)
    assert child.stdout.startswith("False ")
    assert "stranger" not in child.stdout


START = "import captionmill; print('started', flush=True); captionmill.{}()"


@pytest.mark.processes
@pytest.mark.parametrize(("program", "words"), [("producer", ["jobs"]), ("worker", ["doctor"]), ("training", ["info"])])
def test_ctrl_c_at_any_moment_is_one_line(program: str, words: list[str], tmp_path: Path) -> None:
    """As a console script does, the process imports captionmill first; the signal comes while it imports the rest."""
    moments = random.Random(program)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", START.format(program), *words],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=accept_ctrl_c,  # noqa: PLW1509, the tests have no threads of their own
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.001 + moments.random())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert "Traceback" not in errors
        assert process.returncode in (0, 1, 2, 130)
        assert (process.returncode == 130) == ("interrupted" in errors)


@pytest.mark.processes
def test_a_deleted_working_folder_is_named_at_once(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (
        f"rmdir {gone} && exec {PROGRAMS}/producer submit /"  # with `.` for the root folder, all of it would follow
    )
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=gone,
        env=environment(tmp_path / "data"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("producer: the current folder is gone")
    assert not (tmp_path / "data").exists()


@pytest.mark.processes
def test_a_variable_that_is_no_setting_gets_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    run = environment(tmp_path, CAPTIONING_MODLE="x")
    done = subprocess.run([PROGRAMS / "producer", "jobs"], env=run, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line == "producer: warning: CAPTIONING_MODLE is no setting and is ignored; did you mean CAPTIONING_MODEL?"


def test_a_supervisor_that_cannot_start_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "embedded.sock").mkdir()
    client = EmbeddedClient(read_settings(data_dir=tmp_path))
    with pytest.raises(CaptioningError, match="the embedded broker does not start: Is a directory"):
        client.attach()
