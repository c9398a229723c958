"""With --skip-near-duplicates, images that are like a captioned one share its caption and never reach the model."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.features import DIMENSIONS
from captioning.store import jobs
from captioning.store.files import FoundFile
from captioning.values import Caption, DecodeOptions
from tests.worker.conftest import LocalWorker


def saved(photograph: Path, size: tuple[int, int], quality: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.open(photograph).convert("RGB").resize(size).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture
def coffee(photographs: Path) -> Path:
    return photographs / "coffee.png"


@pytest.fixture
def seeing(local: LocalWorker) -> LocalWorker:
    """A worker with a model that returns vectors with its captions, another caption for each image."""

    def caption(images: object, options: DecodeOptions) -> list[Caption]:
        number = len(images)  # type: ignore[arg-type]
        local.captioner.batches += [number] if number else []
        start = sum(local.captioner.batches)
        vector = np.ones(DIMENSIONS, np.int8).tobytes()
        return [Caption(f"image {start - i}", (-0.5,) * 3, vector=vector) for i in range(number)]

    local.captioner.caption = caption  # type: ignore[method-assign, assignment]
    return local


def submit(local: LocalWorker, files: dict[str, bytes], key: str, *, skip: bool = True) -> None:
    """Register files in a job that skips near-duplicates, and process it."""
    local.write(files)
    request = jobs.JobRequest(key, key, DecodeOptions(), skip_near_duplicates=skip)
    job, _ = jobs.open_job(local.db, request, local.driver.model_id)
    stats = {name: (local.folder / name).stat() for name in files}
    local.driver.register(job, [FoundFile(name.encode(), s.st_size, s.st_mtime_ns) for name, s in stats.items()], 100)
    jobs.close_registration(local.db, job, 0, {})
    local.process_all()


def captions_of(local: LocalWorker) -> dict[str, str]:
    query = "SELECT f.path, c.text FROM files f JOIN captions c ON c.image_id = f.image_id"
    with local.db.reading() as connection:
        return {row.path: row.text for row in connection.exec_driver_sql(query)}


def test_of_near_duplicates_in_a_chunk_only_the_largest_is_captioned(seeing: LocalWorker, coffee: Path) -> None:
    copies = {f"{width}.jpg": saved(coffee, (width, width * 2 // 3)) for width in (150, 600, 300)}
    submit(seeing, copies | {"same.jpg": copies["300.jpg"]}, "k")
    assert seeing.captioner.batches == [1]
    assert {state for path, state, _ in seeing.items() if path != "600.jpg"} == {"reused"}
    assert len(set(captions_of(seeing).values())) == 1
    assert seeing.row("SELECT count(*) FROM captions WHERE shared_from IS NULL") == (1,)
    assert seeing.row("SELECT count(*), count(distinct vector) FROM features") == (3, 1)


def test_an_image_of_a_later_job_shares_the_caption_of_an_earlier_one(seeing: LocalWorker, coffee: Path) -> None:
    submit(seeing, {"first.jpg": saved(coffee, (600, 400))}, "first", skip=False)
    submit(seeing, {"later.jpg": saved(coffee, (300, 200), quality=40)}, "later")
    assert seeing.captioner.batches == [1]
    captions = captions_of(seeing)
    assert captions["later.jpg"] == captions["first.jpg"]


def test_captions_are_shared_only_from_images_that_the_model_captioned(seeing: LocalWorker, coffee: Path) -> None:
    for name, width in (("first", 600), ("second", 400), ("third", 300)):
        submit(seeing, {f"{name}.jpg": saved(coffee, (width, width * 2 // 3))}, name)
    assert seeing.row("SELECT count(distinct shared_from) FROM captions") == (1,)


def test_without_the_option_every_image_is_captioned(seeing: LocalWorker, coffee: Path) -> None:
    submit(seeing, {f"{width}.jpg": saved(coffee, (width, width)) for width in (300, 400)}, "k", skip=False)
    assert seeing.captioner.batches == [2]
    assert seeing.row("SELECT count(*) FROM captions WHERE shared_from IS NOT NULL") == (0,)


def test_cropped_and_different_images_are_captioned_by_the_model(
    seeing: LocalWorker, photographs: Path, coffee: Path
) -> None:
    files = {path.name + ".jpg": saved(path, (300, 200)) for path in photographs.iterdir()}
    stream = io.BytesIO()
    Image.open(coffee).convert("RGB").crop((60, 40, 560, 380)).save(stream, "JPEG")
    submit(seeing, files | {"cropped.jpg": stream.getvalue()}, "k")
    assert seeing.captioner.batches == [len(files) + 1]
