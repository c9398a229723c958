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


def test_the_unit_keeps_its_data_in_the_folder_that_it_may_write_to() -> None:
    data = Path("/var/lib", service()["StateDirectory"])
    assert service()["Environment"] == f"CAPTIONING_DATA_DIR={data}"
    assert read_settings(data_dir=data).sqlite_file.parent == data


def test_the_unit_hides_no_folders_in_which_people_keep_images() -> None:
    assert service().keys().isdisjoint({"ProtectHome", "TemporaryFileSystem", "InaccessiblePaths", "PrivateUsers"})
