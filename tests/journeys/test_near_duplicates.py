"""Near-duplicates with the real model: copies are found, told apart from other images, and share a caption."""

import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.journeys.cli_runner import CliRunner


@pytest.fixture
def images(photographs: Path, tmp_path: Path) -> Path:
    """Eight photographs, and four copies of one of them."""
    folder = tmp_path / "images"
    shutil.copytree(photographs, folder, ignore=shutil.ignore_patterns("grass*", "hubble*"))
    (folder / "copies").mkdir()
    coffee = Image.open(folder / "coffee.png").convert("RGB")
    coffee.save(folder / "copies" / "encoded.jpg", quality=40)
    coffee.resize((300, 200)).save(folder / "copies" / "small.webp")
    coffee.crop((60, 20, 580, 370)).save(folder / "copies" / "cropped.jpg")
    ImageOps.mirror(coffee).save(folder / "copies" / "mirrored.jpg")
    return folder


def test_copies_are_found_and_share_a_caption(runner: CliRunner, images: Path) -> None:
    counts = runner.submit(str(images), "--skip-near-duplicates")
    assert (counts["captioned"], counts["reused"], counts["model_runs"]) == (10, 2, 10)
    captions = {Path(row["path"]).name: row["caption"] for row in runner.producer("export").lines}
    assert captions["coffee.png"] == captions["encoded.jpg"] == captions["small.webp"]
    shown = runner.producer("show", str(images / "copies" / "small.webp"))
    assert f"shared with {images}/coffee.png, of which this is a near-duplicate" in shown.out

    found = runner.producer("duplicates", "--json").json
    kinds = [{Path(file["path"]).name: file["kind"] for file in files} for files in found["clusters"]]
    same = {"encoded.jpg": "same", "small.webp": "same"}
    assert kinds == [{"coffee.png": None, "cropped.jpg": "part", "mirrored.jpg": "mirrored"} | same]
    strict = runner.producer("duplicates", "--strict", "--json").json
    assert [{Path(file["path"]).name for file in files} for files in strict["clusters"]] == [{"coffee.png", *same}]

    similar = runner.producer("similar", str(images / "coffee.png"), "--json").json
    assert {Path(file["path"]).parent.name for file in similar[:4]} == {"copies"}
    assert {file["kind"] for file in similar[4:]} == {None}
    assert runner.submit(str(images))["known"] == 12
