"""A bundle is trusted with nothing: whatever is wrong with it is a BundleError of one line, before it costs memory."""

import copy
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from captioning.bundles import file_digest, find_bundles, read_bundle
from captioning.calibration import calibration_of
from captioning.errors import BundleError
from captioning.model.captioner import Captioner, load_decoder, load_encoder, preprocessing_of
from captioning.model.decoder import DecoderConfig, make_decoder
from captioning.model.vocabulary import SPECIAL
from captioning.model.weights import load_weights, save_weights
from captioning.values import DecodeOptions

WORDS = [*SPECIAL, "a", "dog", "runs", "fast"]
SHAPE = {"cell": "gru", "vocabulary_size": 8, "kind": "attention", "feature_size": 2048, "memory_size": 8,
         "hidden_size": 6, "embedding_size": 4, "heads": 2}  # fmt: skip
PATIENT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # a busy machine is no failure
FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=PATIENT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small bundle, the encoder aside."""
    decoder = make_decoder(DecoderConfig(**SHAPE))  # type: ignore[arg-type]
    save_weights(decoder.state_dict(), tmp_path / "decoder.safetensors")
    (tmp_path / "bundle.json").write_text(json.dumps(described(tmp_path)))
    return tmp_path


def described(folder: Path) -> dict[str, Any]:
    return {
        "format": 1,
        "name": "small",
        "decoder": SHAPE,
        "encoder": {"stride": "1x1"},
        "vocabulary": WORDS,
        "preprocessing": {"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "version": 1},
        "weights": {"decoder": file_digest(folder / "decoder.safetensors"), "encoder": "0" * 64},
        "metrics": {"val": {"cider": 0.5}},
        "calibration": {"caption": [[-2.0, -1.0], [0.1, 0.9]], "word": [[-2.0, -1.0], [0.1, 0.9]]},
    }


def used(folder: Path) -> None:
    """Read a bundle and say something with it, as far as it goes without an encoder."""
    bundle = read_bundle(folder)
    decoder, vocabulary = load_decoder(bundle)
    captioner = Captioner(
        lambda x: x, decoder, vocabulary, preprocessing_of(bundle), calibration_of(bundle.description)
    )
    captioner.describe(torch.zeros(1, 49, 2048), DecodeOptions(beam_size=2, max_words=5))


def assert_used_or_refused(act: Callable[[], object]) -> None:
    try:
        act()
    except BundleError as refused:
        said = str(refused)
    else:
        return
    assert said
    assert "\n" not in said


def test_a_small_bundle_is_as_good_as_a_large_one(folder: Path) -> None:
    used(folder)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 7, 10**9, -(10**9), 2**63, 10**400, 0.5, -0.5, 1e300, float("nan"), float("inf")]),
    st.sampled_from(["", "gru", "plain", "updown", "3x3", "\0", "\x1b[2J", "../../etc/passwd", "\ud800", "a b"]),
    st.just([]),
    st.just({}),
    st.recursive(st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=4),
    st.dictionaries(st.sampled_from(["val", "caption", "cell"]), st.integers(), max_size=2),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))]


@FUZZ
@given(data=st.data())
def test_a_description_with_anything_in_it_is_used_or_refused(folder: Path, data: st.DataObject) -> None:
    description = copy.deepcopy(described(folder))
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from([place for place in places(description) if place]))
        part: Any = description
        for key in way:
            part = part[key]
        if data.draw(st.booleans()):
            part[last] = data.draw(JUNK)
        elif isinstance(part, dict):
            del part[last]
        else:
            part.append(data.draw(JUNK))
    (folder / "bundle.json").write_text(json.dumps(description))
    assert_used_or_refused(lambda: used(folder))


@FUZZ
@given(at=st.floats(0, 1), junk=st.binary(max_size=12), cut=st.booleans())
def test_a_description_that_is_damaged_is_used_or_refused(folder: Path, at: float, junk: bytes, cut: bool) -> None:
    text = json.dumps(described(folder)).encode()
    place = int(at * len(text))
    (folder / "bundle.json").write_bytes(text[:place] + junk + (b"" if cut else text[place + len(junk) :]))
    assert_used_or_refused(lambda: used(folder))


@pytest.mark.parametrize("size", [1_000_000_000, 999_999])
@pytest.mark.parametrize("field", ["hidden_size", "memory_size", "embedding_size"])
def test_a_bundle_that_asks_for_terabytes_gets_none(folder: Path, field: str, size: int) -> None:
    description = described(folder)
    description["decoder"] = SHAPE | {field: size, "heads": 1}
    (folder / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match="fit"):
        used(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "two\nlines"}, "its name is no name"),
        ({"weights": {"decoder": "../../x", "encoder": "0" * 64}}, "a digest of its weights is none"),
        ({"metrics": [1]}, "metrics has the wrong shape"),
        ({"decoder": SHAPE | {"heads": 3}}, "3 heads can't share a memory of 8"),
        ({"decoder": SHAPE | {"hidden_size": True}}, "hidden_size"),
        ({"decoder": SHAPE | {"feature_size": 1024}}, "reads 1024 features"),
        ({"vocabulary": [*WORDS[:-1], "dog"]}, "holds each word once"),
        ({"vocabulary": [*WORDS[:-1], "two words"]}, "texts without blanks"),
        ({"vocabulary": [*WORDS[:-1], ["dog"]]}, "texts without blanks"),
        ({"preprocessing": {"size": 10**5, "version": 1}}, "not from 32 to 1024"),
        ({"preprocessing": {"std": [0.2, 0, 0.2], "version": 1}}, "a deviation is more than 0"),
        ({"preprocessing": {"mean": [0.2], "version": 1}}, "mean"),
        ({"calibration": {"caption": [["nan"], [0.5]]}}, "makes no sense"),
        ({"calibration": {"caption": [[10**400], [0.5]]}}, "makes no sense"),
    ],
)
def test_what_makes_no_sense_is_named(folder: Path, changes: dict[str, Any], says: str) -> None:
    (folder / "bundle.json").write_text(json.dumps(described(folder) | changes))
    with pytest.raises(BundleError, match=says):
        used(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": NaN}', '{"format": 1e999}', '"\\ud800"', '"a\\u0000b"'])
def test_json_that_no_database_takes_back_is_refused(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match="is not JSON"):
        read_bundle(folder)


def test_nobody_waits_for_a_pipe_or_reads_a_giant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bundle.json").unlink()
    os.mkfifo(folder / "bundle.json")
    with pytest.raises(BundleError, match="not a regular file"):
        read_bundle(folder)
    (folder / "bundle.json").unlink()
    with (folder / "bundle.json").open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(BundleError, match="more than"):
        read_bundle(folder)
    assert sorted(find_bundles([folder])) == ["flickr8k-gru", "flickr8k-lstm"]
    assert capsys.readouterr().err.count("left out:") == 1
    os.mkfifo(folder / "pipe")
    with pytest.raises(BundleError, match="not a regular file"):
        file_digest(folder / "pipe")


def test_a_stride_that_there_is_not_is_refused(folder: Path) -> None:
    (folder / "bundle.json").write_text(json.dumps(described(folder) | {"encoder": {"stride": "9x9"}}))
    with pytest.raises(BundleError, match="is one of 1x1, 3x3, not '9x9'"):
        load_encoder(read_bundle(folder))


# -- weights --


def with_header(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@FUZZ
@given(data=st.data())
def test_weights_whose_header_lies_are_read_or_refused(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "decoder.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + size])
    name = data.draw(st.sampled_from(sorted(header)))
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "all"]))
    kinds = st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X"])
    if field == "all":
        header[name] = data.draw(JUNK)
    else:
        header[name][field] = data.draw(
            kinds if field == "dtype" else st.one_of(JUNK, st.lists(st.integers(-1, 2**64)))
        )
    (folder / "odd.safetensors").write_bytes(with_header(header, whole[8 + size :]))
    assert_used_or_refused(lambda: load_weights(folder / "odd.safetensors"))


@FUZZ
@given(at=st.floats(0, 1), junk=st.binary(max_size=16), cut=st.booleans())
def test_weights_that_are_damaged_are_read_or_refused(folder: Path, at: float, junk: bytes, cut: bool) -> None:
    whole = (folder / "decoder.safetensors").read_bytes()
    place = int(at * at * len(whole))  # the header is at the beginning
    (folder / "odd.safetensors").write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    assert_used_or_refused(lambda: load_weights(folder / "odd.safetensors"))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"w": torch.zeros(1, 10**6, dtype=torch.int8), "w:scale": torch.ones(10**7)}, "not one scale a row"),
        ({"w": torch.zeros(2, 2, dtype=torch.int8)}, "not one scale a row"),
        ({"w": torch.zeros((), dtype=torch.int8), "w:scale": torch.ones(1)}, "not one scale a row"),
        ({"w": torch.full((2, 2), float("nan"))}, "w holds what is no number"),
        (
            {"w": torch.ones(2, dtype=torch.int8), "w:scale": torch.full((2,), float("inf"))},
            "w holds what is no number",
        ),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "complex"),
    ],
    ids=["terabytes", "no scale", "no rows", "no number", "endless", "complex"],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], says: str) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(BundleError, match=says):
        load_weights(tmp_path / "w.safetensors")
