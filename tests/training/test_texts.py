"""Captions without images teach words; the references of val and test images are never among them."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from captioning.errors import UsageError
from tests.training.conftest import MEMORISING
from training.config import TrainConfig
from training.data.batches import text_batches
from training.data.corpus import read_corpus
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile
from training.data.texts import read_texts
from training.fit.train import prepare, run_training


def test_a_sentence_that_is_a_val_reference_is_dropped_and_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, packed = tmp_path / "one.txt", tmp_path / "two.txt.gz"
    plain.write_text("A pizza on a plate .\nA CUP of coffee stands on a wooden table!\n\nA pizza on a plate\n")
    packed.write_bytes(gzip.compress(b"A giraffe eats leaves .\na pizza on a plate\n"))
    found = read_texts([plain, packed], read_corpus(corpus))
    assert [" ".join(words) for words in found] == ["a pizza on a plate", "a giraffe eats leaves"]
    assert capsys.readouterr().err.splitlines() == [
        f"{plain}: 1 caption; dropped 1 that is a reference of a val or test image",
        f"{packed}: 2 captions; dropped 0 that are a reference of a val or test image",
    ]


@pytest.mark.parametrize(("name", "data"), [("no.txt", None), ("bad.gz", b"no gzip"), ("latin.txt", b"caf\xe9")])
def test_a_file_that_cannot_be_read_is_named(name: str, data: bytes | None, corpus: Path, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=f"^--text .*{name}: cannot read captions from it: "):
        read_texts([tmp_path / name], read_corpus(corpus))


def test_decoders_learn_words_from_captions_without_images(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("A pizza lies on a plate .\n" * 2)
    config = dataclasses.replace(MEMORISING, epochs=2)
    about = run_training([DataFolder(corpus)], encoder, config, tmp_path / "run", cache, resume=False, texts=[texts])
    assert "pizza" in about["vocabulary"]
    assert about["texts"] == 1
    without = run_training([DataFolder(corpus)], encoder, config, tmp_path / "without", cache, resume=False)
    assert "pizza" not in without["vocabulary"]
    with pytest.raises(UsageError, match="was started on other images or captions"):
        run_training([DataFolder(corpus)], encoder, config, tmp_path / "run", cache, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["texts"] == 1


def test_text_batches_depend_on_the_seed_and_the_epoch_only(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"a number {n} .\n" for n in range(50)))
    config = TrainConfig(text_captions=8, min_count=1)
    data = prepare([DataFolder(corpus)], encoder, config, cache, texts=[texts])

    def first(epoch: int, rank: int = 0, ranks: int = 1) -> list[list[int]]:
        batch = next(text_batches(data, config, epoch, rank, ranks))
        assert batch is not None
        return batch.words.tolist()

    assert first(1) == first(1) != first(2)
    assert len(first(1)) == 8
    assert sorted(first(1, 0, 2) + first(1, 1, 2)) == sorted(first(1))
    alone = prepare([DataFolder(corpus)], encoder, config, cache)
    assert next(text_batches(alone, config, 1)) is None
