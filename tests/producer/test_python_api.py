"""captionmill from Python: three lines caption images; rows are dictionaries or a DataFrame; nothing heavy loads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captioning
from captioning import Captioner, open_store
from captioning.errors import ImageError, UsageError
from captioning.store.database import Database


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("gru", batch_size=3)


def test_paths_bytes_arrays_and_pil_images_get_the_same_caption(captioner: Captioner, photographs: Path) -> None:
    file = photographs / "coffee.png"
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    found = captioner.caption([file, str(file), file.read_bytes(), image, np.asarray(image)])
    assert len({caption.text for caption in found}) == 1
    assert found[0].text
    assert 0 < found[0].confidence < 1
    assert [caption.text for caption in captioner.caption(file)] == [found[0].text]
    assert captioner.caption([]) == []


def test_what_is_no_image_is_refused(captioner: Captioner, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        captioner.caption(b"no image")
    with pytest.raises(UsageError, match="a int is no image: give a path, bytes, a PIL image or uint8"):
        captioner.caption([7])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"cannot read .*nothing\.jpg: No such file"):
        captioner.caption([tmp_path / "nothing.jpg"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "blip"}, "no model named 'blip'"),
        ({"beam_size": 0}, "beam_size=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_a_captioner_that_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Captioner(**given)  # type: ignore[arg-type]


def test_a_store_gives_rows_a_frame_and_corrections(
    tmp_path: Path, store: Database, captioned_store: Database, photographs: Path
) -> None:
    assert store is captioned_store
    with open_store(f"sqlite:///{tmp_path / 'data' / 'captions.sqlite'}") as opened:
        assert len(list(opened.rows())) == 10
        (row,) = opened.rows(where="path:coffee")
        assert row["caption"] == "two dogs run past image 6"
        frame = opened.dataframe()
        assert (len(frame), frame["confidence"].dtype.kind, frame["captioned_at"].dtype.kind) == (10, "f", "M")
        assert [row["path"] for row in opened.search('"image 6"')] == [row["path"]]
        assert opened.correct(photographs / "coffee.png", "my cup")["caption"] == "my cup"
        assert opened.undo().restored == 1
        with pytest.raises(UsageError, match="is not registered"):
            opened.correct("/nothing.jpg", "x")


def test_a_database_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no database at sqlite:"):
        open_store(f"sqlite:///{tmp_path / 'nothing.sqlite'}")
    assert not (tmp_path / "nothing.sqlite").exists()


def test_importing_captioning_loads_no_torch_and_no_database_driver() -> None:
    code = (
        "import sys, captioning; from captioning import Captioner, open_store;"
        "print([m for m in ('torch', 'openvino', 'sqlalchemy', 'pandas', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Captionner'"):
        _ = captioning.Captionner  # type: ignore[attr-defined]
