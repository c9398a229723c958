"""The real models on real photographs."""

from pathlib import Path

import numpy as np
import pytest

from captioning.bundles import find_bundles
from captioning.model.captioner import Captioner, load_decoder, load_encoder, preprocessing_of
from captioning.model.pixels import Limits, Pixels, open_image
from captioning.model.runtime import choose, make_grid_encoder
from captioning.values import DecodeOptions

MODELS = ["flickr8k-lstm", "flickr8k-gru"]


def captioner(name: str, runtime: str) -> Captioner:
    bundle = find_bundles()[name]
    decoder, vocabulary = load_decoder(bundle)
    encode = make_grid_encoder(load_encoder(bundle), choose(runtime, "cpu"))
    return Captioner(encode, decoder, vocabulary, preprocessing_of(bundle))


@pytest.fixture(scope="module")
def pixels(photographs: Path) -> dict[str, Pixels]:
    return {p.name: open_image(p.read_bytes(), 224, Limits())[0] for p in sorted(photographs.iterdir())}


@pytest.mark.parametrize("name", MODELS)
def test_it_sees_what_is_there(name: str, pixels: dict[str, Pixels]) -> None:
    said = dict(zip(pixels, captioner(name, "torch").caption(list(pixels.values()), DecodeOptions()), strict=True))
    people = {"man", "woman", "girl", "boy", "person", "lady", "child", "people"}
    assert people & set(said["astronaut.png"].text.split())
    assert people & set(said["camera.png"].text.split())
    assert len({caption.text for caption in said.values()}) >= 8
    for caption in said.values():
        assert 4 <= len(caption.text.split()) <= 22
        assert len(caption.word_log_probabilities) == len(caption.text.split()) + 1
        assert max(caption.word_log_probabilities) <= 0
        assert caption.weakest_word in caption.text.split()
        assert len(caption.alternatives) == 2
        assert "<" not in caption.text


def test_the_same_image_gets_the_same_caption_alone_and_in_company(pixels: dict[str, Pixels]) -> None:
    model = captioner("flickr8k-gru", "torch")
    together = model.caption(list(pixels.values()), DecodeOptions())
    assert model.caption([next(iter(pixels.values()))], DecodeOptions())[0].text == together[0].text
    assert model.caption([], DecodeOptions()) == []


def test_runtimes_agree_on_almost_every_word(pixels: dict[str, Pixels]) -> None:
    one = captioner("flickr8k-lstm", "torch").caption(list(pixels.values()), DecodeOptions())
    other = captioner("flickr8k-lstm", "openvino").caption(list(pixels.values()), DecodeOptions())
    same = sum(a.text == b.text for a, b in zip(one, other, strict=True))
    assert same >= len(one) * 0.6


def test_runtimes_agree_on_the_grid(pixels: dict[str, Pixels]) -> None:
    import torch

    bundle = find_bundles()["flickr8k-lstm"]
    batch = torch.from_numpy(np.stack(list(pixels.values())))
    with torch.inference_mode():
        exact = load_encoder(bundle)(batch)
        for runtime in ("torch", "openvino"):
            found = make_grid_encoder(load_encoder(bundle), choose(runtime, "cpu"))(batch)
            cosine = torch.nn.functional.cosine_similarity(exact.flatten(1), found.flatten(1))
            assert float(cosine.min()) > 0.99
