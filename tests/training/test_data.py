"""Reading a corpus: several forms, common damage, splits, cached features and encoder files."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from captioning.errors import UsageError
from captioning.model.vocabulary import END, PAD, Vocabulary
from captioning.model.weights import load_weights
from tests.training.conftest import CAPTIONS, VAL
from training.config import TrainConfig
from training.data.batches import TrainingData, batches, choose_captions, steps_of
from training.data.corpus import Corpus, open_corpus, read_corpus
from training.data.data_sets import DataFolder, DataSet, open_data, parse_data
from training.data.encoders import EncoderFile, open_encoder
from training.data.features import Features, cached_features, view_of
from training.data.tokens import tokenize


def karpathy(corpus: Path, folder: Path, **flaws: object) -> Path:
    folder.mkdir()
    (folder / "Images").symlink_to(corpus / "Images")
    splits = dict(zip(CAPTIONS, ("train", "restval", "val", "test"), strict=True))
    images = [
        {"filename": name, "split": splits[name], "sentences": [{"raw": text} for _ in range(5)]}
        for name, text in CAPTIONS.items()
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images} | flaws))
    return folder


def test_both_caption_files_of_flickr8k_give_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokens"
    shutil.copytree(corpus, other)
    (other / "captions.txt").unlink()
    lines = [
        f"{start}{name}#{i}\t{text}" for start in ("", "val-") for name, text in CAPTIONS.items() for i in range(5)
    ]
    (other / "Flickr8k.token.txt").write_text("\n".join([*lines, "gone.jpg.1#0\tNo image .", "no tab"]) + "\n")
    one, two = read_corpus(corpus), read_corpus(other)
    assert (one.captions, one.train, one.val) == (two.captions, two.train, two.val)
    assert two.left_out == ("gone.jpg.1: no such image", "nobody.jpg: in the val split, but without a caption")
    assert set(one.left_out) == {
        "2258277193_586949ec62.jpg.1: no such image",
        "flower.jpg: an empty caption",
        "nobody.jpg: in the val split, but without a caption",
    }


def test_a_karpathy_file_defines_its_own_splits(corpus: Path, tmp_path: Path) -> None:
    found = read_corpus(karpathy(corpus, tmp_path / "karpathy"))
    assert found.train == ("astronaut.png", "chelsea.png")
    assert (found.val, found.test) == (("coffee.png",), ("rocket.jpg",))
    assert found.captions["coffee.png"] == (CAPTIONS["coffee.png"],) * 5


@pytest.mark.parametrize("flaws", [{"images": [{"filename": "a.jpg"}]}, {"images": "none"}, {"images": [{"split": 7}]}])
def test_a_damaged_karpathy_file_is_reported_in_one_line(
    corpus: Path, tmp_path: Path, flaws: dict[str, object]
) -> None:
    folder = karpathy(corpus, tmp_path / "karpathy", **flaws)
    with pytest.raises(UsageError, match=r"dataset_flickr8k\.json is not one of Karpathy's data sets"):
        read_corpus(folder)


def test_without_split_files_images_are_split_by_their_names(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine"
    shutil.copytree(corpus, other)
    for path in other.glob("Flickr_8k*"):
        path.unlink()
    found = read_corpus(other)
    assert set(found.train) | set(found.val) == {*CAPTIONS, *VAL}
    assert not set(found.train) & set(found.val)
    assert read_corpus(other) == found


@pytest.mark.parametrize(("exists", "message"), [(False, "cannot read the data folder"), (True, "no captions.txt")])
def test_a_folder_without_captions_is_refused_with_what_is_missing(tmp_path: Path, exists: bool, message: str) -> None:
    if exists:
        (tmp_path / "data" / "Images").mkdir(parents=True)
    with pytest.raises(UsageError, match=message):
        read_corpus(tmp_path / "data")


def test_captions_that_are_not_text_are_refused(corpus: Path, tmp_path: Path) -> None:
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
    assert set(found.train) == set(CAPTIONS) - {"coffee.png"}
    assert set(found.val) == set(VAL)
    message = capsys.readouterr().err.strip()
    assert message.startswith("left out 4 lines and images of ")
    list_of_them = Path(message.rpartition(" ")[2]).read_text()
    assert "coffee.png: " in list_of_them
    assert "nobody.jpg: in the val split" in list_of_them
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


def test_features_are_computed_once_and_again_after_an_image_changes(
    corpus: Path, encoder: EncoderFile, tmp_path: Path
) -> None:
    names = tuple(CAPTIONS)[:2]
    loads = []

    def load() -> object:
        loads.append(1)
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
    assert len(loads) == 2
    os.utime(corpus / "Images" / names[0])
    features(1)
    assert len(loads) == 3


def test_a_bare_backbone_needs_the_stride_option(encoder: EncoderFile, tmp_path: Path) -> None:
    bare = tmp_path / "backbone.safetensors"
    shutil.copy(encoder.weights, bare)
    with pytest.raises(UsageError, match="--stride 1x1"):
        open_encoder(bare, None, tmp_path)
    assert open_encoder(bare, "1x1", tmp_path).load().encoder.stride == "1x1"
    assert open_encoder(Path("gru"), None, tmp_path).digest == encoder.digest
    with pytest.raises(UsageError, match="no encoder at"):
        open_encoder(tmp_path / "none", "1x1", tmp_path)


def test_a_mirrored_image_gets_no_caption_with_left_or_right() -> None:
    captions = ["a dog on the left", "a dog runs", "it turns right", "a ball"]
    for seed in range(20):
        chosen = choose_captions(captions, True, 5, random.Random(seed))
        assert len(chosen) == 5
        assert not any({"left", "right"} & set(words) for words in chosen)


def small_data(weight: float = 1.0) -> TrainingData:
    """Ten images with three captions each and features of two channels; no file exists."""
    names = tuple(f"{i}.jpg" for i in range(10))
    captions = {name: (f"a dog number {i} runs very far", "a dog", "a brown dog") for i, name in enumerate(names)}
    words = [tokenize(caption) for of_image in captions.values() for caption in of_image]
    views = tuple(np.arange(10, dtype=np.float16).reshape(10, 1, 1).repeat(2, 2) + 100 * view for view in range(2))
    features = Features(views, {name: row for row, name in enumerate(names)})
    corpus = Corpus(Path(), captions, names, ())
    sets = (DataSet("ten", weight, corpus, corpus.digest),)
    return TrainingData(corpus, sets, Vocabulary.build(words, 1), features, features)


def test_the_batches_of_an_epoch_depend_on_the_seed_and_the_epoch_only() -> None:
    data, config = small_data(), TrainConfig(batch_size=4, captions_per_image=2, seed=7)
    torch_state = torch.get_rng_state()
    first, again, next_epoch = (
        [(b.names, b.views, b.words.tolist()) for b in batches(data, config, e)] for e in (1, 1, 2)
    )
    assert first == again != next_epoch
    assert torch.equal(torch.get_rng_state(), torch_state), "dropout masks would change"
    assert len(first) == steps_of(data, config) == 3
    assert sorted(name for names, _, _ in first for name in names) == sorted(data.corpus.train)


@pytest.mark.parametrize(("weight", "times"), [(1, {1}), (2, {2}), (2.5, {2, 3}), (0.5, {0, 1})])
def test_an_epoch_draws_an_image_as_often_as_the_weight_of_its_data_set_says(weight: float, times: set[int]) -> None:
    data, config = small_data(weight), TrainConfig(batch_size=4)
    names = [name for batch in batches(data, config, 1) for name in batch.names]
    assert len(names) == 10 * weight
    assert {names.count(name) for name in data.corpus.train} == times
    assert len(list(batches(data, config, 1))) == steps_of(data, config)


def test_a_batch_has_the_features_of_its_views_and_padded_captions() -> None:
    data, config = small_data(), TrainConfig(batch_size=10, captions_per_image=3, max_length=5)
    (batch,) = batches(data, config, 1)
    expected = [int(name[:-4]) + 100 * view for name, view in zip(batch.names, batch.views, strict=True)]
    assert batch.images[:, 0, 0].tolist() == torch.tensor(expected, dtype=torch.bfloat16).tolist()
    assert batch.words.shape == (30, 1 + 5)
    rows = {" ".join(data.vocabulary.decode(row[1:])): row for row in batch.words.tolist()}
    assert END not in rows["a dog number 3 runs"], "a cut caption has no end"
    assert rows["a dog"][3:] == [END, PAD, PAD]


def test_tokens_are_lower_case_without_punctuation() -> None:
    assert tokenize("A dog's ball, two-toned (red) .") == ["a", "dog's", "ball", "two", "toned", "red"]


def test_val_and_test_images_are_never_training_images(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "both"
    shutil.copytree(corpus, other)
    (other / "Flickr_8k.testImages.txt").write_text("coffee.png\n")
    found = read_corpus(other)
    assert found.test == ("coffee.png",)
    assert "coffee.png" not in found.train
    assert "coffee.png: in the train split and in another, so not used for training" in found.left_out
    (other / "Flickr_8k.devImages.txt").unlink()
    found = read_corpus(other)
    assert set(found.train) | set(found.val) == set(CAPTIONS) - {"coffee.png"}
    assert found.val


def test_a_corpus_without_val_images_is_refused(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "few"
    shutil.copytree(corpus, other)
    for name in VAL:
        (other / "Images" / name).write_bytes(b"")
    with pytest.raises(UsageError, match="has 4 training and 0 val images"):
        open_corpus(other, tmp_path)


def test_several_corpora_become_one_whose_names_are_paths(corpus: Path, cache: Path, tmp_path: Path) -> None:
    other = shutil.copytree(corpus, tmp_path / "cats")
    text = (other / "captions.txt").read_text()
    (other / "captions.txt").write_text(text.replace("striped cat", "grey cat"))
    whole, sets = open_data(parse_data([str(corpus), f"{other}=2"]), cache)
    assert [(part.name, part.weight) for part in sets] == [(corpus.name, 1.0), ("cats", 2.0)]
    assert whole.train == sets[0].corpus.train + sets[1].corpus.train
    assert len(whole.train) == len(set(whole.train)) == 8
    assert all((whole.image_folder / name).is_file() for name in whole.names)
    (cat,) = (name for name in sets[1].corpus.train if name.endswith("chelsea.png"))
    assert whole.captions[cat][0] == "A grey cat looks at something ."
    same = shutil.copytree(corpus, tmp_path / "more" / corpus.name)
    _, numbered = open_data([DataFolder(corpus), DataFolder(same)], cache)
    assert [part.name for part in numbered] == [f"{corpus.name}-1", f"{corpus.name}-2"]
    alone, (only,) = open_data(parse_data([str(corpus)]), cache)
    assert only.corpus == alone == open_corpus(corpus, cache)
    assert sets[0].digest == alone.digest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{corpus}=0"], "the weight must be a number above 0, at most 1000, not '0'"),
        (["{corpus}=nan"], "the weight must be a number above 0"),
        (["{corpus}=many"], "not 'many'"),
        (["{corpus}", "{corpus}/../{name}=2"], "twice: give it once, with a weight"),
        (["{corpus}/Images"], r"no captions\.txt, no Flickr8k\.token\.txt"),
    ],
)
def test_a_wrong_data_option_is_refused(words: list[str], message: str, corpus: Path) -> None:
    with pytest.raises(UsageError, match=message):
        parse_data([word.format(corpus=corpus, name=corpus.name) for word in words])


def test_a_folder_whose_name_has_an_equals_sign_is_a_folder(corpus: Path, tmp_path: Path) -> None:
    other = shutil.copytree(corpus, tmp_path / "x=2")
    assert parse_data([str(other)]) == (DataFolder(other),)
    assert parse_data([f"{other}=0.5"]) == (DataFolder(other, 0.5),)


def test_several_data_sets_in_one_folder_are_refused(corpus: Path, tmp_path: Path) -> None:
    folder = karpathy(corpus, tmp_path / "karpathy")
    shutil.copy(folder / "dataset_flickr8k.json", folder / "dataset_coco.json")
    with pytest.raises(UsageError, match=r"dataset_coco\.json, dataset_flickr8k\.json\. Leave only the one to use"):
        read_corpus(folder)


def test_a_backbone_file_is_converted_to_the_form_that_bundles_ship(encoder: EncoderFile, tmp_path: Path) -> None:
    """The file has torchvision's form: float, a classifier, batch counters, .pth."""
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
    with pytest.raises(UsageError, match="cannot be read as weights"):
        open_encoder(tmp_path / "text.pth", "1x1", tmp_path)


def test_splits_are_read_from_files_of_short_names_too(corpus: Path, tmp_path: Path) -> None:
    other = shutil.copytree(corpus, tmp_path / "short")
    (other / "Flickr_8k.trainImages.txt").rename(other / "train.txt")
    (other / "Flickr_8k.devImages.txt").rename(other / "dev.txt")
    (other / "test.txt").write_text("coffee.png\n")
    found, long = read_corpus(other), read_corpus(corpus)
    assert found.val == long.val
    assert found.test == ("coffee.png",)
    assert set(found.train) == set(long.train) - {"coffee.png"}
