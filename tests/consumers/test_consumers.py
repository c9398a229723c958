"""Every export is read back by the program for which it is written, with equal captions. Runs with --consumers only.

It needs the extra `consumers`, exiftool and LibreOffice. Where a program is missing, its test fails and says so.
"""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import migrations
from captioning.settings import read_settings
from captioning.store import leases
from captioning.store.captions import export_rows
from captioning.store.database import Database
from captioning.values import DecodeOptions
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, submit
from scripts.sample_images import copy_samples
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import LSTM, StoreDriver, captioned

pytestmark = [  # of the consumers, which are not ours to mend
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CAPTIONS = (
    "a dog runs",
    "Größe: 5 €, 10 % mehr",
    'she says "hello", twice',
    "<b>bold</b> & more; ]]> &amp;",
    "=SUM(A1:A9)",
    "-5 degrees",
    "@home on +1 day",
    "\N{DOG FACE} 一只狗 \N{ARABIC LETTER KAF}",
    "a back\\slash; and a semicolon",
    "'quoted' at the start",
)


@pytest.fixture
def cli(tmp_path: Path) -> CliRunner:
    """Ten photographs in two folders, each with a caption that is hard for a format."""
    photos = tmp_path / "photos"
    for i, file in enumerate(copy_samples(photos)):
        if i % 2:
            (photos / "in side").mkdir(exist_ok=True)
            file.rename(photos / "in side" / file.name)
    settings = read_settings(data_dir=tmp_path / "data")
    db = Database.open(settings)
    migrations.ensure_schema(db)
    submit(db, settings, SubmitRequest(read_sources([os.fsencode(photos)]), Filters(), LSTM, DecodeOptions()), print)
    driver = StoreDriver(db, os.fsencode(photos))
    texts = iter(CAPTIONS)
    for claim in driver.claim_all():
        digests = [sha256((photos / os.fsdecode(item.path)).read_bytes()).hexdigest() for item in claim.items]
        driver.commit_batch(
            claim, [captioned(item, next(texts), digest) for item, digest in zip(claim.items, digests, strict=True)]
        )
        leases.complete(db, claim)
    db.close()
    return CliRunner(tmp_path / "data", in_process=True)


@pytest.fixture
def expected(cli: CliRunner) -> dict[str, str]:
    """The captions, by path."""
    db = Database(f"sqlite:///{cli.data / 'captions.sqlite'}")
    captions = {row.path: row.caption or "" for row in export_rows(db)}
    db.close()
    assert sorted(captions.values()) == sorted(CAPTIONS)
    return captions


def export(cli: CliRunner, *arguments: str) -> None:
    done = cli.producer("export", *arguments)
    assert done.code == 0, done.err


def program(name: str, package: str) -> str:
    path = shutil.which(name)
    return path or pytest.fail(f"{name} is not installed: apt-get install {package}")


def unquoted(caption: str) -> str:
    """Remove the apostrophe that keeps a spreadsheet from running a text."""
    return caption[1:] if caption.startswith("'") and caption[1:2] in tuple("=+-@\t\r'") else caption


def test_pyarrow_reads_parquet(cli: CliRunner, expected: dict[str, str], tmp_path: Path) -> None:
    from pyarrow import parquet

    export(cli, "-o", str(tmp_path / "c.parquet"))
    rows = parquet.read_table(tmp_path / "c.parquet").to_pylist()
    assert {row["path"]: row["caption"] for row in rows} == expected


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_pandas_reads_every_table(ending: str, cli: CliRunner, expected: dict[str, str], tmp_path: Path) -> None:
    import pandas as pd

    read: dict[str, Callable[[Path], Any]] = {
        "csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True), "parquet": pd.read_parquet
    }  # fmt: skip
    export(cli, "-o", str(tmp_path / f"c.{ending}"))
    frame = read[ending](tmp_path / f"c.{ending}")
    captions = frame["caption"].map(unquoted) if ending == "csv" else frame["caption"]
    assert dict(zip(frame["path"], captions, strict=True)) == expected


@pytest.mark.parametrize("column", ["text", "caption"])
def test_datasets_of_hugging_face_reads_an_imagefolder(
    column: str, cli: CliRunner, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    photos = tmp_path / "photos"
    export(cli, "--format", "hf", "--caption-column", column, "-o", str(photos / "metadata.jsonl"))
    read = datasets.load_dataset("imagefolder", data_dir=str(photos), split="train", cache_dir=str(tmp_path / "cache"))
    sizes = [image.size for image in read["image"]]
    paths = [image["path"] for image in read.cast_column("image", datasets.Image(decode=False))["image"]]
    assert dict(zip(paths, read[column], strict=True)) == expected
    assert sizes == [Image.open(path).size for path in paths]


def test_pycocotools_reads_captions_and_results(cli: CliRunner, expected: dict[str, str], tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    export(cli, "-o", str(tmp_path / "captions.json"))
    export(cli, "--format", "coco-results", "-o", str(tmp_path / "results.json"))
    coco = COCO(str(tmp_path / "captions.json"))
    names = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    for source in (coco, coco.loadRes(str(tmp_path / "results.json"))):
        annotations = source.loadAnns(source.getAnnIds())
        assert {names[one["image_id"]]: one["caption"] for one in annotations} == expected


def test_webdataset_reads_shards_with_their_images(cli: CliRunner, expected: dict[str, str], tmp_path: Path) -> None:
    import webdataset

    export(cli, "--format", "webdataset", "-o", str(tmp_path / "shards"))
    shards = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert {sample["json"]["path"]: sample["txt"] for sample in samples} == expected
    for sample in samples:
        image = next(sample[ending] for ending in ("jpg", "png") if ending in sample)
        with Image.open(sample["json"]["path"]) as original:
            assert image.size == original.size


@pytest.mark.parametrize("name", ["stem", "full"])
def test_exiftool_reads_xmp(name: str, cli: CliRunner, expected: dict[str, str], tmp_path: Path) -> None:
    exiftool = program("exiftool", "libimage-exiftool-perl")
    export(cli, "--format", "xmp", "--xmp-name", name, "-o", str(tmp_path / "tree"))
    command = [exiftool, "-json", "-r", "-ext", "xmp", "-XMP:all", str(tmp_path / "tree")]
    read = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    stems = {Path(path).stem if name == "stem" else Path(path).name: caption for path, caption in expected.items()}
    assert {Path(one["SourceFile"]).stem: str(one["Description"]) for one in read} == stems
    assert {Path(one["SourceFile"]).stem: str(one["AltTextAccessibility"]) for one in read} == stems


def test_libreoffice_reads_and_writes_a_table_that_imports_without_a_change(
    cli: CliRunner, expected: dict[str, str], tmp_path: Path
) -> None:
    office = program("soffice", "libreoffice-calc")
    export(cli, "-o", str(tmp_path / "c.csv"), "--excel")
    options = "44,34,76,1,,0,false,true,false,false,false,-1"  # comma, quotes, UTF-8
    profile = f"-env:UserInstallation=file://{tmp_path}/profile"
    command = [office, profile, "--headless", f"--infilter=CSV:{options}", "--convert-to", "ods", "c.csv"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "back").mkdir()
    command = [office, profile, "--headless", "--convert-to", f"csv:Text - txt - csv (StarCalc):{options}"]
    subprocess.run([*command, "--outdir", "back", "c.ods"], cwd=tmp_path, capture_output=True, check=True)
    (back,) = (tmp_path / "back").glob("*.csv")
    with back.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: unquoted(row["caption"]) for row in rows} == expected
    imported = cli.producer("import", str(back), "--json")
    assert imported.json == {"rows": {"same": len(expected)}, "written": 0}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_an_export_that_is_imported_changes_nothing(ending: str, cli: CliRunner, tmp_path: Path) -> None:
    export(cli, "-o", str(tmp_path / f"c.{ending}"))
    imported = cli.producer("import", str(tmp_path / f"c.{ending}"), "--json")
    assert imported.json == {"rows": {"same": len(CAPTIONS)}, "written": 0}
