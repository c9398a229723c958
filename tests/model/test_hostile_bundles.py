"""A bundle is not trusted: anything wrong with it is a BundleError of one line, before it takes memory."""

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
from captioning.model.captioner import Captioner
from captioning.model.decoder import DecoderConfig, make_decoder
from captioning.model.descriptions import preprocessing_of
from captioning.model.load_bundle import load_decoder, load_encoder
from captioning.model.vocabulary import SPECIAL
from captioning.model.weights import load_weights, save_weights
from captioning.values import DecodeOptions

WORDS = [*SPECIAL, "a", "dog", "runs", "fast"]
SHAPE = {"cell": "gru", "vocabulary_size": 8, "kind": "attention", "feature_size": 2048, "memory_size": 8,
         "hidden_size": 6, "embedding_size": 4, "heads": 2}  # fmt: skip
FUZZ = settings(
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # the machine may be busy
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a small bundle without an encoder."""
    decoder = make_decoder(DecoderConfig(**SHAPE))  # type: ignore[arg-type]
    save_weights(decoder.state_dict(), tmp_path / "decoder.safetensors")
    (tmp_path / "bundle.json").write_text(json.dumps(described(tmp_path)))
    return tmp_path


def described(folder: Path) -> dict[str, Any]:
    return {
        "format": 2,
        "name": "small",
        "decoder": SHAPE,
        "encoder": {"stride": "1x1"},
        "vocabulary": WORDS,
        "preprocessing": {"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "version": 2},
        "weights": {"decoder": file_digest(folder / "decoder.safetensors"), "encoder": "0" * 64},
        "metrics": {"val": {"cider": 0.5}},
        "calibration": {"caption": [[-2.0, -1.0], [0.1, 0.9]], "word": [[-2.0, -1.0], [0.1, 0.9]]},
    }


def use(folder: Path) -> None:
    """Read a bundle and caption an image with it, without its encoder."""
    bundle = read_bundle(folder)
    decoder, vocabulary = load_decoder(bundle)
    captioner = Captioner(
        lambda x: x, decoder, vocabulary, preprocessing_of(bundle), calibration_of(bundle.description)
    )
    captioner.caption_features(torch.zeros(1, 49, 2048), DecodeOptions(beam_size=2, max_words=5))


def assert_used_or_refused(act: Callable[[], object]) -> None:
    try:
        act()
    except BundleError as error:
        message = str(error)
    else:
        return
    assert message
    assert "\n" not in message


def test_a_small_bundle_can_be_used(folder: Path) -> None:
    use(folder)


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


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, part in inner for deeper in paths(part, (*path, key)))]


@FUZZ
@given(data=st.data())
def test_a_description_with_random_values_is_used_or_refused(folder: Path, data: st.DataObject) -> None:
    description = copy.deepcopy(described(folder))
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([path for path in paths(description) if path]))
        part: Any = description
        for key in parents:
            part = part[key]
        if data.draw(st.booleans()):
            part[last] = data.draw(JUNK)
        elif isinstance(part, dict):
            del part[last]
        else:
            part.append(data.draw(JUNK))
    (folder / "bundle.json").write_text(json.dumps(description))
    assert_used_or_refused(lambda: use(folder))


@FUZZ
@given(at=st.floats(0, 1), junk=st.binary(max_size=12), cut=st.booleans())
def test_a_damaged_description_is_used_or_refused(folder: Path, at: float, junk: bytes, cut: bool) -> None:
    text = json.dumps(described(folder)).encode()
    start = int(at * len(text))
    (folder / "bundle.json").write_bytes(text[:start] + junk + (b"" if cut else text[start + len(junk) :]))
    assert_used_or_refused(lambda: use(folder))


@pytest.mark.parametrize("size", [1_000_000_000, 999_999])
@pytest.mark.parametrize("field", ["hidden_size", "memory_size", "embedding_size"])
def test_a_decoder_of_terabytes_is_refused_before_it_is_made(folder: Path, field: str, size: int) -> None:
    description = described(folder)
    description["decoder"] = SHAPE | {field: size, "heads": 1}
    (folder / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match=f"{field} must be from 1 to 999999|it does not fit the weights"):
        use(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, r"json: format: this version reads bundles of format 2, not 3\. Re-export"),
        ({"name": "two\nlines"}, r"json: name: must consist of printable characters\. Re-export"),
        ({"name": ""}, r"json: name: string should have at least 1 character\. Re-export"),
        ({"name": "a" * 101}, r"json: name: string should have at most 100 characters\. Re-export"),
        ({"weights": {"decoder": "../../x", "encoder": "0" * 64}}, r"json: weights\.decoder: string should match"),
        (
            {"weights": {"decoder": "0" * 64, "encoder": "0" * 64 + "\n"}},
            r"json: weights\.encoder: string should match",
        ),
        ({"weights": {"decoder": "0" * 64}}, r"json: weights\.encoder: field required"),
        ({"metrics": [1]}, "json: metrics: input should be a valid dictionary"),
        ({"metrics": {"val": 0.5}}, r"json: metrics\.val: input should be a valid dictionary"),
        ({"provenance": None}, "json: provenance: input should be a valid dictionary"),
        ({"encoder": {"stride": 1}}, r"json: encoder\.stride: input should be a valid string"),
        ({"decoder": {}}, r"json: decoder\.cell: field required"),
        ({"decoder": SHAPE | {"cell": "rnn"}}, r"json: decoder\.cell: input should be 'lstm' or 'gru'"),
        ({"decoder": SHAPE | {"kind": "transformer"}}, "json: decoder: kind must be one of plain, "),
        ({"decoder": SHAPE | {"heads": 3}}, "json: decoder: memory_size 8 must be a multiple of heads, 3"),
        ({"decoder": SHAPE | {"hidden_size": True}}, r"json: decoder\.hidden_size: input should be a valid integer"),
        ({"decoder": SHAPE | {"hidden_size": 6.0}}, r"json: decoder\.hidden_size: input should be a valid integer"),
        ({"decoder": SHAPE | {"feature_dropout": 10**400}}, "json: decoder: feature_dropout must be"),
        ({"decoder": SHAPE | {"feature_size": 1024}}, r"json: decoder\.feature_size: must be 2048"),
        ({"decoder": SHAPE | {"two\nlines": 1}}, r"json: decoder\.two\\nlines: unexpected"),
        ({"vocabulary": "a dog"}, "json: vocabulary: input should be a valid list"),
        ({"vocabulary": [*WORDS[:-1], "dog"]}, "json: vocabulary: each word must occur once"),
        ({"vocabulary": [*WORDS[:-1], "two words"]}, "json: vocabulary: each entry must be one word"),
        ({"vocabulary": [*WORDS[:-1], ["dog"]]}, "json: vocabulary: each entry must be one word"),
        ({"preprocessing": {"size": 10**5, "version": 2}}, "json: preprocessing: size must be from 32 to 1024 pixels"),
        ({"preprocessing": {"std": [0.2, 0, 0.2], "version": 2}}, "json: preprocessing: each std must be"),
        ({"preprocessing": {"mean": [10**400, 0, 0], "version": 2}}, "json: preprocessing: each mean must be"),
        ({"preprocessing": {"mean": [0.2], "version": 2}}, r"json: preprocessing\.mean\.1: field required"),
        ({"calibration": {"caption": [["nan"], [0.5]]}}, "calibration of model small is invalid"),
        ({"calibration": {"caption": [[10**400], [0.5]]}}, "calibration of model small is invalid"),
    ],
)
def test_the_message_names_the_wrong_field(folder: Path, changes: dict[str, Any], message: str) -> None:
    (folder / "bundle.json").write_text(json.dumps(described(folder) | changes))
    with pytest.raises(BundleError, match=message):
        use(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not valid JSON: maximum recursion depth"),
        ('{"format": NaN}', "not valid JSON: NaN is not a finite number"),
        ('{"format": 1e999}', "not valid JSON: 1e999 is not a finite number"),
        ('"\\ud800"', "not valid JSON: .* surrogates not allowed"),
        ('"a\\u0000b"', "a string contains NUL"),
    ],
)
def test_json_that_a_database_cannot_store_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_a_pipe_and_a_giant_file_are_refused_without_being_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bundle.json").unlink()
    os.mkfifo(folder / "bundle.json")
    with pytest.raises(BundleError, match="not a regular file"):
        read_bundle(folder)
    (folder / "bundle.json").unlink()
    with (folder / "bundle.json").open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(BundleError, match="more than"):
        read_bundle(folder)
    assert sorted(find_bundles([folder])) == ["gru", "lstm"]
    assert capsys.readouterr().err.count("left out:") == 1
    os.mkfifo(folder / "pipe")
    with pytest.raises(BundleError, match="not a regular file"):
        file_digest(folder / "pipe")


def test_an_unknown_stride_is_refused(folder: Path) -> None:
    (folder / "bundle.json").write_text(json.dumps(described(folder) | {"encoder": {"stride": "9x9"}}))
    with pytest.raises(BundleError, match="must be one of 1x1, 3x3, not '9x9'"):
        load_encoder(read_bundle(folder))


# -- weights --


def with_header(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@FUZZ
@given(data=st.data())
def test_weights_with_a_wrong_header_are_read_or_refused(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "decoder.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + size])
    name = data.draw(st.sampled_from(sorted(header)))
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "all"]))
    dtypes = st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X"])
    if field == "all":
        header[name] = data.draw(JUNK)
    else:
        header[name][field] = data.draw(
            dtypes if field == "dtype" else st.one_of(JUNK, st.lists(st.integers(-1, 2**64)))
        )
    (folder / "odd.safetensors").write_bytes(with_header(header, whole[8 + size :]))
    assert_used_or_refused(lambda: load_weights(folder / "odd.safetensors"))


@FUZZ
@given(at=st.floats(0, 1), junk=st.binary(max_size=16), cut=st.booleans())
def test_damaged_weights_are_read_or_refused(folder: Path, at: float, junk: bytes, cut: bool) -> None:
    whole = (folder / "decoder.safetensors").read_bytes()
    start = int(at * at * len(whole))  # more often in the header, which is at the beginning
    (folder / "odd.safetensors").write_bytes(whole[:start] + junk + (b"" if cut else whole[start + len(junk) :]))
    assert_used_or_refused(lambda: load_weights(folder / "odd.safetensors"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"w": torch.zeros(1, 10**6, dtype=torch.int8), "w:scale": torch.ones(10**7)},
            "does not have one scale per row",
        ),
        ({"w": torch.zeros(2, 2, dtype=torch.int8)}, "does not have one scale per row"),
        ({"w": torch.zeros((), dtype=torch.int8), "w:scale": torch.ones(1)}, "does not have one scale per row"),
        ({"w": torch.full((2, 2), float("nan"))}, "w contains values that are not finite"),
        (
            {"w": torch.ones(2, dtype=torch.int8), "w:scale": torch.full((2,), float("inf"))},
            "w contains values that are not finite",
        ),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "complex"),
    ],
    ids=["terabytes", "no scale", "no rows", "NaN", "infinite", "complex"],
)
def test_invalid_weights_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(BundleError, match=message):
        load_weights(tmp_path / "w.safetensors")
