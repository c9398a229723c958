"""Captioned pictures come in several forms and in all their flaws; nothing is lost without being listed."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from captioning.errors import UsageError
from tests.training.conftest import SAID
from training.batches import choose_sentences
from training.dataset import read_corpus
from training.encoders import EncoderFile, open_encoder
from training.features import cached_features, view_of
from training.runs import open_corpus
from training.text import words_of


def karpathy(corpus: Path, folder: Path, **flaws: object) -> Path:
    folder.mkdir()
    (folder / "Images").symlink_to(corpus / "Images")
    splits = dict(zip(SAID, ("train", "restval", "val", "test"), strict=True))
    images = [
        {"filename": name, "split": splits[name], "sentences": [{"raw": text} for _ in range(5)]}
        for name, text in SAID.items()
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images} | flaws))
    return folder


def test_both_texts_of_flickr8k_give_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokens"
    shutil.copytree(corpus, other)
    (other / "captions.txt").unlink()
    lines = [f"{name}#{i}\t{text}" for name, text in SAID.items() for i in range(5)]
    (other / "Flickr8k.token.txt").write_text("\n".join([*lines, "gone.jpg.1#0\tNo picture .", "no tab"]) + "\n")
    one, two = read_corpus(corpus), read_corpus(other)
    assert (one.captions, one.train, one.val) == (two.captions, two.train, two.val)
    assert two.left_out == ("gone.jpg.1: no such picture", "nobody.jpg: in the val split, but without a caption")
    assert set(one.left_out) == {
        "2258277193_586949ec62.jpg.1: no such picture",
        "flower.jpg: an empty caption",
        "nobody.jpg: in the val split, but without a caption",
    }


def test_karpathys_form_brings_its_own_splits(corpus: Path, tmp_path: Path) -> None:
    found = read_corpus(karpathy(corpus, tmp_path / "karpathy"))
    assert found.train == ("astronaut.png", "chelsea.png")
    assert (found.val, found.test) == (("coffee.png",), ("rocket.jpg",))
    assert found.captions["coffee.png"] == (SAID["coffee.png"],) * 5


@pytest.mark.parametrize("flaws", [{"images": [{"filename": "a.jpg"}]}, {"images": "none"}, {"images": [{"split": 7}]}])
def test_a_damaged_data_set_says_so_in_a_line(corpus: Path, tmp_path: Path, flaws: dict[str, object]) -> None:
    folder = karpathy(corpus, tmp_path / "karpathy", **flaws)
    with pytest.raises(UsageError, match=r"dataset_flickr8k\.json is not one of Karpathy's data sets"):
        read_corpus(folder)


def test_without_split_files_pictures_are_divided_by_their_names(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine"
    shutil.copytree(corpus, other)
    for path in other.glob("Flickr_8k*"):
        path.unlink()
    found = read_corpus(other)
    assert set(found.train) | set(found.val) == set(SAID)
    assert not set(found.train) & set(found.val)
    assert read_corpus(other) == found


@pytest.mark.parametrize(("make", "says"), [(False, "can't read the data folder"), (True, "no captions.txt")])
def test_a_folder_without_captions_says_what_is_missing(tmp_path: Path, make: bool, says: str) -> None:
    if make:
        (tmp_path / "data" / "Images").mkdir(parents=True)
    with pytest.raises(UsageError, match=says):
        read_corpus(tmp_path / "data")


def test_captions_that_are_not_text_say_so(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "bad")
    (tmp_path / "bad" / "captions.txt").write_bytes(b"\xff\xfe,\xff")
    with pytest.raises(UsageError, match="are damaged"):
        read_corpus(tmp_path / "bad")


def test_pictures_that_cannot_be_opened_are_left_out_and_listed_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    (data / "Images" / "coffee.png").write_bytes(b"not a picture")
    found = open_corpus(data, tmp_path)
    assert set(found.train) == set(SAID) - {"coffee.png"}
    said = capsys.readouterr().err
    assert said.startswith("left out 4 lines and pictures of ")
    listed = Path(said.strip().rpartition(" ")[2]).read_text()
    assert "coffee.png: " in listed
    assert "nobody.jpg: in the val split" in listed
    assert open_corpus(data, tmp_path) == found
    assert capsys.readouterr().err == ""


def test_a_crop_is_the_same_every_time_and_odd_views_are_mirrored(corpus: Path) -> None:
    data = (corpus / "Images" / "coffee.png").read_bytes()
    views = [view_of(data, view, "coffee.png") for view in range(4)]
    assert all(view.shape == (224, 224, 3) and view.dtype == np.uint8 for view in views)
    assert np.array_equal(views[1], views[0][:, ::-1])
    assert np.array_equal(view_of(data, 2, "coffee.png"), views[2])
    assert not np.array_equal(views[2], views[3])
    assert not np.array_equal(view_of(data, 2, "tea.png"), views[2])


def test_features_are_computed_once_and_a_broken_off_file_is_begun_again(
    corpus: Path, encoder: EncoderFile, tmp_path: Path
) -> None:
    names = tuple(SAID)[:2]
    loaded = []

    def load() -> object:
        loaded.append(1)
        return encoder.load()

    def features(views: int) -> object:
        return cached_features(load, encoder.digest, corpus / "Images", names, "grid", tmp_path, views=views)  # type: ignore[arg-type]

    first = features(1).get(names)  # type: ignore[attr-defined]
    assert first.shape == (2, 49, 2048)
    (next(tmp_path.glob("*view0*")).with_name("grid-x-view1.part")).write_bytes(b"half")
    both = features(2)
    assert (both.get(names) == first).all()  # type: ignore[attr-defined]
    assert not (both.get(names, [1, 1]) == first).all()  # type: ignore[attr-defined]
    features(2)
    assert len(loaded) == 2


def test_a_bare_backbone_must_say_where_its_stride_sits(encoder: EncoderFile, tmp_path: Path) -> None:
    bare = tmp_path / "backbone.safetensors"
    shutil.copy(encoder.weights, bare)
    with pytest.raises(UsageError, match="--stride 1x1"):
        open_encoder(bare, None, tmp_path)
    assert open_encoder(bare, "1x1", tmp_path).load().encoder.stride == "1x1"
    assert open_encoder(Path("flickr8k-gru"), None, tmp_path).digest == encoder.digest
    with pytest.raises(UsageError, match="no encoder at"):
        open_encoder(tmp_path / "none", "1x1", tmp_path)


def test_a_mirrored_picture_is_never_taught_left_and_right() -> None:
    captions = ["a dog on the left", "a dog runs", "it turns right", "a ball"]
    for seed in range(20):
        words = choose_sentences(captions, True, 5, random.Random(seed))
        assert len(words) == 5
        assert not any({"left", "right"} & set(w) for w in words)


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("A dog's ball, two-toned (red) .") == ["a", "dog's", "ball", "two", "toned", "red"]
