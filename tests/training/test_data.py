"""Captioned images come in several forms and in all their flaws; nothing is lost without being listed."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from captioning.errors import UsageError
from captioning.model.weights import load_weights
from tests.training.conftest import SAID, VAL
from training.data.batches import choose_sentences
from training.data.corpus import read_corpus
from training.data.encoders import EncoderFile, open_encoder
from training.data.features import cached_features, view_of
from training.data.tokens import words_of
from training.fit.train import open_corpus


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
    lines = [f"{start}{name}#{i}\t{text}" for start in ("", "val-") for name, text in SAID.items() for i in range(5)]
    (other / "Flickr8k.token.txt").write_text("\n".join([*lines, "gone.jpg.1#0\tNo image .", "no tab"]) + "\n")
    one, two = read_corpus(corpus), read_corpus(other)
    assert (one.captions, one.train, one.val) == (two.captions, two.train, two.val)
    assert two.left_out == ("gone.jpg.1: no such image", "nobody.jpg: in the val split, but without a caption")
    assert set(one.left_out) == {
        "2258277193_586949ec62.jpg.1: no such image",
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


def test_without_split_files_images_are_divided_by_their_names(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine"
    shutil.copytree(corpus, other)
    for path in other.glob("Flickr_8k*"):
        path.unlink()
    found = read_corpus(other)
    assert set(found.train) | set(found.val) == {*SAID, *VAL}
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


def test_images_that_cannot_be_opened_are_left_out_and_listed_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    (data / "Images" / "coffee.png").write_bytes(b"not an image")
    found = open_corpus(data, tmp_path)
    assert set(found.train) == set(SAID) - {"coffee.png"}
    assert set(found.val) == set(VAL)
    said = capsys.readouterr().err.strip()
    assert said.startswith("left out 4 lines and images of ")
    listed = Path(said.strip().rpartition(" ")[2]).read_text()
    assert "coffee.png: " in listed
    assert "nobody.jpg: in the val split" in listed
    assert open_corpus(data, tmp_path) == found
    assert capsys.readouterr().err.strip() == ""


def test_a_crop_is_the_same_every_time_and_odd_views_are_mirrored(corpus: Path) -> None:
    data = (corpus / "Images" / "coffee.png").read_bytes()
    views = [view_of(data, view, "coffee.png") for view in range(4)]
    assert all(view.shape == (224, 224, 3) and view.dtype == np.uint8 for view in views)
    assert np.array_equal(views[1], views[0][:, ::-1])
    assert np.array_equal(view_of(data, 2, "coffee.png"), views[2])
    assert not np.array_equal(views[2], views[3])
    assert not np.array_equal(view_of(data, 2, "tea.png"), views[2])


def test_features_are_computed_once_and_again_for_a_changed_image(
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
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    both = features(2)
    assert (both.get(names) == first).all()  # type: ignore[attr-defined]
    assert not (both.get(names, [1, 1]) == first).all()  # type: ignore[attr-defined]
    features(2)
    assert len(loaded) == 2
    os.utime(corpus / "Images" / names[0])
    features(1)
    assert len(loaded) == 3


def test_a_bare_backbone_must_say_where_its_stride_sits(encoder: EncoderFile, tmp_path: Path) -> None:
    bare = tmp_path / "backbone.safetensors"
    shutil.copy(encoder.weights, bare)
    with pytest.raises(UsageError, match="--stride 1x1"):
        open_encoder(bare, None, tmp_path)
    assert open_encoder(bare, "1x1", tmp_path).load().encoder.stride == "1x1"
    assert open_encoder(Path("flickr8k-gru"), None, tmp_path).digest == encoder.digest
    with pytest.raises(UsageError, match="no encoder at"):
        open_encoder(tmp_path / "none", "1x1", tmp_path)


def test_a_mirrored_image_is_never_taught_left_and_right() -> None:
    captions = ["a dog on the left", "a dog runs", "it turns right", "a ball"]
    for seed in range(20):
        words = choose_sentences(captions, True, 5, random.Random(seed))
        assert len(words) == 5
        assert not any({"left", "right"} & set(w) for w in words)


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("A dog's ball, two-toned (red) .") == ["a", "dog's", "ball", "two", "toned", "red"]


def test_what_is_judged_by_is_never_learned_from(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "both"
    shutil.copytree(corpus, other)
    (other / "Flickr_8k.testImages.txt").write_text("coffee.png\n")
    found = read_corpus(other)
    assert found.test == ("coffee.png",)
    assert "coffee.png" not in found.train
    assert "coffee.png: in the train split and in another, so not learned from" in found.left_out
    (other / "Flickr_8k.devImages.txt").unlink()
    found = read_corpus(other)
    assert set(found.train) | set(found.val) == set(SAID) - {"coffee.png"}
    assert found.val


def test_a_corpus_without_val_images_says_so(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "few"
    shutil.copytree(corpus, other)
    for name in VAL:
        (other / "Images" / name).write_bytes(b"")
    with pytest.raises(UsageError, match="4 images to learn from and 0 to choose by"):
        open_corpus(other, tmp_path)


def test_several_data_sets_in_one_folder_are_a_question(corpus: Path, tmp_path: Path) -> None:
    folder = karpathy(corpus, tmp_path / "karpathy")
    shutil.copy(folder / "dataset_flickr8k.json", folder / "dataset_coco.json")
    with pytest.raises(UsageError, match=r"dataset_coco\.json, dataset_flickr8k\.json: leave the one that is meant"):
        read_corpus(folder)


def test_any_file_of_a_backbone_becomes_an_encoder_as_it_is_shipped(encoder: EncoderFile, tmp_path: Path) -> None:
    """torchvision's own form: float, a head, counters, .pth."""
    state = encoder.load().encoder.state_dict() | {"fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)}
    torch.save(state, tmp_path / "resnet50.pth")
    found = open_encoder(tmp_path / "resnet50.pth", "1x1", tmp_path)
    assert found.weights.stat().st_size < 30e6
    assert not [name for name in load_weights(found.weights) if name.startswith("fc.") or name.endswith("tracked")]
    assert open_encoder(Path(found.name), None, tmp_path).digest == found.digest
    assert found.about == {"stride": "1x1", "origin": "resnet50.pth"}
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"other\.pth is not a ResNet50 backbone; it differs in conv1\.weight"):
        open_encoder(tmp_path / "other.pth", "1x1", tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UsageError, match="can't be read as weights"):
        open_encoder(tmp_path / "text.pth", "1x1", tmp_path)
