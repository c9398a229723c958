"""The real models on real photographs."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from captioning.bundles import BUILT_IN, Bundle, find_bundles, read_bundle
from captioning.model.load_bundle import load_encoder
from captioning.model.openvino_encoder import why_not_written
from captioning.model.pixels import Limits, Pixels, Preprocessing, open_image
from captioning.model.runtime import choose_runtime, load_captioner, make_grid_encoder
from captioning.values import Caption, DecodeOptions

MODELS = ["lstm", "gru"]
SIZE = Preprocessing().size


def captions(bundle: Bundle, runtime: str, images: list[Pixels], cache: Path | None = None) -> list[Caption]:
    captioner = load_captioner(bundle, choose_runtime(runtime, "cpu", "fp32"), cache)
    return captioner.caption(images, DecodeOptions())


def decoded(photographs: Path, size: int) -> dict[str, Pixels]:
    return {p.name: open_image(p.read_bytes(), size, Limits())[0] for p in sorted(photographs.iterdir())}


@pytest.fixture(scope="module")
def compiled() -> Path:
    """The folder of encoders converted for OpenVINO that all tests of a run share: a conversion takes 10 s."""
    return Path(os.environ["CAPTIONING_TEST_RUNTIME"])


@pytest.fixture(scope="module")
def pixels(photographs: Path) -> dict[str, Pixels]:
    return decoded(photographs, SIZE)


def test_attention_says_for_each_word_where_the_model_looked_and_changes_no_caption(pixels: dict[str, Pixels]) -> None:
    captioner = load_captioner(find_bundles()["lstm"], choose_runtime("torch", "cpu"), None)
    images = list(pixels.values())[:4]
    found = captioner.caption(images, DecodeOptions(attention=True))
    for caption, plain in zip(found, captioner.caption(images, DecodeOptions()), strict=True):
        assert (caption.text, plain.attention) == (plain.text, None)
        grids = np.frombuffer(caption.attention or b"", np.uint8).reshape(len(caption.text.split()), 7, 7)
        assert (grids.max((1, 2)) == 255).all()
        assert len({grid.tobytes() for grid in grids}) > 1


@pytest.mark.parametrize("name", MODELS)
def test_captions_describe_the_photographs(name: str, pixels: dict[str, Pixels]) -> None:
    found = dict(zip(pixels, captions(find_bundles()[name], "torch", list(pixels.values())), strict=True))
    people = {"man", "woman", "girl", "boy", "person", "lady", "child", "people"}
    assert people & set(found["astronaut.png"].text.split())
    assert people & set(found["camera.png"].text.split())
    assert len({caption.text for caption in found.values()}) >= 8
    for caption in found.values():
        assert 4 <= len(caption.text.split()) <= 22
        assert len(caption.word_log_probabilities) == len(caption.text.split()) + 1
        assert max(caption.word_log_probabilities) <= 0
        assert caption.weakest_word in caption.text.split()
        assert len(caption.alternatives) == 2
        assert "<" not in caption.text


def test_the_same_image_gets_the_same_caption_alone_and_in_a_batch(pixels: dict[str, Pixels]) -> None:
    captioner = load_captioner(find_bundles()["gru"], choose_runtime("torch", "cpu"))
    batch = captioner.caption(list(pixels.values()), DecodeOptions())
    assert captioner.caption([next(iter(pixels.values()))], DecodeOptions())[0].text == batch[0].text
    assert captioner.caption([], DecodeOptions()) == []


def test_runtimes_agree_on_most_captions(pixels: dict[str, Pixels], compiled: Path) -> None:
    bundle, images = find_bundles()["lstm"], list(pixels.values())
    one, other = captions(bundle, "torch", images), captions(bundle, "openvino", images, compiled)
    same = sum(a.text == b.text for a, b in zip(one, other, strict=True))
    assert same >= len(one) * 0.6


def test_runtimes_agree_on_the_grid(pixels: dict[str, Pixels], compiled: Path) -> None:
    bundle = find_bundles()["lstm"]
    batch = torch.from_numpy(np.stack(list(pixels.values())))
    with torch.inference_mode():
        exact = load_encoder(bundle)(batch)
        for runtime in ("torch", "openvino"):
            found = make_grid_encoder(bundle, choose_runtime(runtime, "cpu", "fp32"), compiled)(batch)
            cosine = torch.nn.functional.cosine_similarity(exact.flatten(1), found.flatten(1))
            assert float(cosine.min()) > 0.99


@pytest.fixture
def bundle_160(tmp_path: Path) -> Bundle:
    """A built-in model that reads images of 160 x 160 pixels."""
    shutil.copytree(BUILT_IN, tmp_path / "bundles")
    path = tmp_path / "bundles" / "gru" / "bundle.json"
    description = json.loads(path.read_text())
    description["preprocessing"]["size"] = 160
    path.write_text(json.dumps(description))
    return read_bundle(path.parent)


def test_a_bundle_of_another_image_size_works_in_both_runtimes(
    bundle_160: Bundle, photographs: Path, tmp_path: Path
) -> None:
    small = list(decoded(photographs, 160).values())[:3]
    by_torch = captions(bundle_160, "torch", small)
    by_openvino = captions(bundle_160, "openvino", small, tmp_path / "cache")
    assert all(len(caption.text.split()) >= 4 for caption in by_torch + by_openvino)
    assert sum(a.text == b.text for a, b in zip(by_torch, by_openvino, strict=True)) >= 2


@pytest.mark.slow
def test_a_compiled_encoder_is_kept_for_each_image_size(bundle_160: Bundle, photographs: Path, tmp_path: Path) -> None:
    usual, cache = find_bundles()["gru"], tmp_path / "cache"
    assert usual.encoder_digest == bundle_160.encoder_digest
    images = {size: list(decoded(photographs, size).values())[:1] for size in (SIZE, 160)}
    first = captions(usual, "openvino", images[SIZE], cache)
    captions(bundle_160, "openvino", images[160], cache)
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert len(list(cache.iterdir())) == 2
    assert captions(usual, "openvino", images[SIZE], cache) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == kept


def test_a_model_that_cannot_be_kept_on_disk_captions_all_the_same(
    pixels: dict[str, Pixels], caplog: pytest.LogCaptureFixture
) -> None:
    images = list(pixels.values())[:2]
    made = captions(find_bundles()["lstm"], "openvino", images, Path("/dev/null/runtime"))
    assert all(len(caption.text.split()) >= 4 for caption in made)
    assert "the converted model cannot be kept in /dev/null/runtime" in caplog.text
    assert "(Not a directory): the worker goes on without it" in caplog.text


def test_a_stream_error_of_openvino_is_explained_by_the_free_space(tmp_path: Path) -> None:
    words = why_not_written(RuntimeError("basic_ios::clear: iostream error"), tmp_path)
    assert re.fullmatch(r"[0-9,]+\.[0-9] MB free on its disk", words)
    assert why_not_written(OSError(errno.ENOSPC, "No space left on device"), tmp_path) == "No space left on device"
