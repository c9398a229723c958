"""`producer plan` with the real model: it measures files wherever they are, and leaves nothing behind."""

import shutil
import signal
from pathlib import Path

from tests.journeys.cli_runner import CliRunner
from tests.support.archives import write_zip
from tests.support.polling import wait_until


def test_a_plan_measures_images_and_writes_nothing(tmp_path: Path, photographs: Path) -> None:
    runner = CliRunner(tmp_path / "data")
    folder = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    (folder / "broken.jpg").write_bytes((folder / min(path.name for path in folder.iterdir())).read_bytes()[:2000])
    before = sorted(path.name for path in folder.rglob("*"))
    result = runner.producer("plan", str(folder), "--workers", "2")
    assert result.code == 0, result
    found, about, measured = result.out.splitlines()
    assert found.startswith("11 images (")
    assert about.startswith("About ")
    assert " with 2 workers on machines like this one (" in about
    assert about.endswith(", 90 %).")
    assert measured.endswith("Measured: 11 images, of which 1 cannot be captioned.")
    assert not runner.data.exists()
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert runner.has_no_processes()


def test_a_plan_measures_named_files_and_members_of_archives(
    runner: CliRunner, tmp_path: Path, photographs: Path
) -> None:
    first, second, *_ = sorted(photographs.iterdir())
    write_zip(tmp_path / "more.zip", {"a.jpg": first.read_bytes(), "b/c.jpg": second.read_bytes()})
    linked = tmp_path / "linked"
    linked.symlink_to(photographs)
    plan = runner.producer("plan", str(tmp_path / "more.zip"), str(linked), "--json").json
    assert (plan["scanned"], plan["measured"], plan["measured_failed"]) == (12, 12, 0)
    assert 0 < plan["low_seconds"] < plan["seconds"] < plan["high_seconds"]


def test_a_plan_that_is_interrupted_ends_its_measurement(runner: CliRunner, photographs: Path) -> None:
    process = runner.start("producer", "plan", str(photographs), stderr=-1, stdout=-1)
    wait_until(lambda: any("worker.probe" in process.cmdline() for process in runner.processes()), 30, "the probe")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.endswith("producer: interrupted; nothing was stored\n")


def test_a_device_that_is_not_there_is_one_line(runner: CliRunner, photographs: Path) -> None:
    runner.environment["CAPTIONING_DEVICE"] = "cuda:7"
    result = runner.producer("plan", str(photographs))
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("producer: device cuda:7: torch ")
