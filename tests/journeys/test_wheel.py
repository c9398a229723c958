"""What `pip install` brings is whole: code, migrations, models."""

import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_the_wheel_holds_migrations_and_models_and_no_tests(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (
        "captioning",
        "producer",
        "worker",
        "training",
        "migrations",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        (source / name).symlink_to(PROJECT / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("captionmill-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "captioning/bundled/flickr8k-lstm/bundle.json",
        "captioning/bundled/flickr8k-lstm/decoder.safetensors",
        "captioning/bundled/flickr8k-gru/CARD.md",
        "migrations/env.py",
        "migrations/versions/0001_the_first_tables.py",
        "worker/opener.py",
    ):
        assert needed in names
    assert sum(name.startswith("captioning/bundled/encoders/") for name in names) == 1
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "benchmarks/"))]
