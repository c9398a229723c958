"""`producer similar` and `producer duplicates`, and what they say where they cannot compare."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.features import DIMENSIONS, pack_thumbnail
from captioning.settings import Settings
from captioning.store import leases, results
from captioning.store.database import Database
from captioning.store.outcomes import Provenance
from captioning.values import DecodeOptions
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, submit
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import LEASE_SECONDS, LSTM, StoreDriver, captioned

HOSTILE = "small\x1b[31m.png"


@pytest.fixture
def images(tmp_path: Path, photographs: Path) -> Path:
    """A folder with photographs, a copy, and a small one with a name that a terminal would obey."""
    folder = tmp_path / "images"
    shutil.copytree(photographs, folder)
    shutil.copy(folder / "coffee.png", folder / "copy.png")
    Image.open(folder / "coffee.png").resize((300, 200)).save(folder / HOSTILE)
    return folder


@pytest.fixture
def compared(settings: Settings, store: Database, images: Path) -> Database:
    """A database with the features of these images. No model has run: the vectors are made up."""
    caption_all(settings, store, images, encoder="1:encoder")
    return store


def caption_all(settings: Settings, store: Database, images: Path, encoder: str) -> None:
    request = SubmitRequest(read_sources([os.fsencode(images)]), Filters(), LSTM, DecodeOptions())
    submit(store, settings, request, lambda _: None)
    claim = StoreDriver(store, os.fsencode(images)).claim()
    outcomes = []
    for item in claim.items:
        path = images / os.fsdecode(item.path)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((224, 224)))
            size = image.size
        name = "coffee.png" if item.path in (b"copy.png", HOSTILE.encode()) else path.name
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        vector = np.random.default_rng(seed).integers(-127, 128, DIMENSIONS).astype(np.int8).tobytes()
        one = captioned(item, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        assert one.caption is not None
        assert one.content is not None
        assert one.content.info is not None
        content = replace(one.content, info=replace(one.content.info, width=size[0], height=size[1]))
        caption = replace(one.caption, vector=vector)
        outcomes.append(replace(one, content=content, caption=caption, thumbnail=pack_thumbnail(pixels)))
    provenance = Provenance("torch", "fp32", "test", encoder=encoder)
    results.commit_batch(store, claim, outcomes, provenance, LEASE_SECONDS)
    leases.complete(store, claim)


@pytest.mark.usefixtures("compared")
def test_similar_lists_copies_first_and_says_what_they_are(cli: CliRunner, images: Path) -> None:
    found = cli.producer("similar", str(images / "coffee.png"), "--limit", "3", "--json").json
    assert [(Path(file["path"]).name, file["kind"], file["score"]) for file in found[:2]] == [
        ("copy.png", "copy", 1.0),
        (HOSTILE, "same", 1.0),
    ]
    assert (found[2]["kind"], len(found)) == (None, 3)
    assert found[0]["sha256"] == hashlib.sha256((images / "coffee.png").read_bytes()).hexdigest()
    printed = cli.producer("similar", str(images / "coffee.png")).out
    assert "\x1b" not in printed
    assert "small\\x1b[31m.png" in printed


@pytest.mark.usefixtures("compared")
def test_duplicates_are_clusters_with_the_largest_image_first(cli: CliRunner, images: Path) -> None:
    for options in ((), ("--strict",), ("--job", "1")):
        result = cli.producer("duplicates", *options, "--json")
        assert result.code == 0
        (cluster,) = result.json["clusters"]
        names = [(Path(file["path"]).name, file["kind"]) for file in cluster]
        assert names == [("coffee.png", None), ("copy.png", "copy"), (HOSTILE, "same")]
        assert (result.json["found"], result.json["compared"], result.json["without_features"]) == (1, 11, 0)
    printed = cli.producer("duplicates")
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == ["no.", "1", "1", "1"]
    assert printed.err.endswith("1 cluster of 3 files; 11 images compared\n")
    assert len([*images.iterdir()]) == 12  # nothing is deleted


def test_images_captioned_before_the_upgrade_are_counted_with_the_remedy(
    cli: CliRunner, settings: Settings, store: Database, images: Path
) -> None:
    caption_all(settings, store, images, encoder="")
    result = cli.producer("duplicates")
    assert result.out.count("\n") == 3  # the copy is found without features
    assert "11 images were captioned before images could be compared: `producer submit --force`" in result.err
    result = cli.producer("similar", str(images / "coffee.png"))
    assert result.code == 2
    assert f"run `producer submit --force {images}/coffee.png` once" in result.err


@pytest.mark.parametrize(
    ("path", "message"),
    [("", "the path is empty"), ("no.jpg", "is not registered and does not exist"), (".", "folder")],
)
@pytest.mark.usefixtures("store")
def test_similar_refuses_what_is_no_registered_image(cli: CliRunner, path: str, message: str) -> None:
    result = cli.producer("similar", path)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


@pytest.mark.usefixtures("store")
def test_duplicates_of_an_unknown_job_are_refused(cli: CliRunner) -> None:
    result = cli.producer("duplicates", "--job", "9")
    assert result.code == 2
    assert "there is no job 9" in result.err


def test_without_anything_submitted_duplicates_says_how_to_begin(cli: CliRunner) -> None:
    result = cli.producer("duplicates")
    assert (result.code, result.out) == (0, "")
    assert "nothing is captioned yet" in result.err


def test_force_and_skip_near_duplicates_exclude_each_other(cli: CliRunner, images: Path) -> None:
    result = cli.producer("submit", str(images), "--force", "--skip-near-duplicates")
    assert result.code == 2
    assert "--force and --skip-near-duplicates exclude each other" in result.err
