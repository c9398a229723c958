"""The wheel contains all that an installation needs: code, migrations and models."""

import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PACKAGES = ("captioning", "producer", "worker", "training", "migrations")


def test_the_wheel_contains_migrations_and_models_but_no_tests(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (*PACKAGES, "captionmill.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        (source / name).symlink_to(PROJECT / name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path))
    build = [sys.executable, "-m", "pip", "wheel", *options, "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("captionmill-*.whl")
    contents = zipfile.ZipFile(wheel)
    names = contents.namelist()
    for needed in (
        "captionmill.py",
        "captioning/bundled/lstm/bundle.json",
        "captioning/bundled/lstm/decoder.safetensors",
        "captioning/bundled/gru/CARD.md",
        "captioning/decoding/child.py",
        "migrations/env.py",
        "migrations/versions/0001_initial_schema.py",
        "producer/embedded/supervisor.py",
        "training/templates/report.html",
        *(f"{package}/py.typed" for package in PACKAGES),
    ):
        assert needed in names
    assert sum(name.startswith("captioning/bundled/encoders/") for name in names) == 4
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "benchmarks/"))]
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    about = contents.read(metadata).decode()
    assert "License-Expression: MIT AND LicenseRef-captionmill-weights" in about
    assert "License-File: NOTICE" in about
