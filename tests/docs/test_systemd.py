"""The unit for systemd: systemd itself accepts it, and what it starts exists."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioning.settings import read_settings

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "captionmill-watch@.service"


def service() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    installed = Path(sys.executable).with_name("producer")
    copy = tmp_path / "captionmill-watch@srv-photos.service"
    copy.write_text(UNIT.read_text().replace("/opt/captionmill/bin/producer", str(installed)))
    command = ["systemd-analyze", "verify", "--man=no", str(copy)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_unit_runs_the_command_with_a_setting_that_exists() -> None:
    assert service()["ExecStart"] == "/opt/captionmill/bin/producer watch %f"
    assert service()["Environment"] == "CAPTIONING_DATA_DIR=/var/lib/captionmill"
    assert str(read_settings(data_dir=Path("/var/lib/captionmill")).data_dir) == "/var/lib/captionmill"


def test_a_stop_is_no_failure_and_a_failure_is_started_again() -> None:
    assert service()["Restart"] == "on-failure"
    assert "SuccessExitStatus" not in service()  # it exits with 0 after SIGTERM
