"""The built-in bundles match their descriptions, and a bundle that does not is refused."""

import json
import shutil
from pathlib import Path

import pytest

from captioning.bundles import BUILT_IN, Bundle, find_bundles, named, read_bundle
from captioning.errors import BundleError, UsageError
from captioning.model.descriptions import preprocessing_of
from captioning.model.load_bundle import load_decoder, load_encoder
from training.export.model_card import model_card


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return the folder of a bundle that a test may damage."""
    shutil.copytree(BUILT_IN, tmp_path / "bundles")
    return tmp_path / "bundles" / "gru"


def rewrite(folder: Path, **changes: object) -> Bundle:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return read_bundle(folder)


def outdate(folder: Path, name: str) -> None:
    """Describe a bundle as one for images that are prepared as in version 1."""
    preprocessing = read_bundle(folder).description["preprocessing"]
    rewrite(folder, name=name, preprocessing=preprocessing | {"version": 1})


def test_two_models_are_built_in_and_share_one_encoder() -> None:
    bundles = find_bundles()
    assert sorted(bundles) == ["gru", "lstm"]
    assert [bundles[n].description["decoder"]["cell"] for n in sorted(bundles)] == ["gru", "lstm"]
    assert len({b.encoder_digest for b in bundles.values()}) == 1
    assert len({b.digest for b in bundles.values()}) == 2
    for bundle in bundles.values():
        bundle.verify()


def test_built_in_models_are_small_and_good_and_their_cards_name_the_data() -> None:
    assert sum(p.stat().st_size for p in BUILT_IN.rglob("*") if p.is_file()) <= 60_000_000
    for bundle in find_bundles().values():
        assert bundle.description["metrics"]["val"]["cider"] >= 0.48
        card = (bundle.folder / "CARD.md").read_text()
        assert "Flickr8k" in card
        assert "Limits" in card
        assert f"{bundle.description['metrics']['val']['cider']:.3f}" in card


def test_the_cards_of_built_in_models_are_what_the_export_writes() -> None:
    for bundle in find_bundles().values():
        assert (bundle.folder / "CARD.md").read_text() == model_card(bundle.description)


def test_a_changed_weight_file_is_refused(copied: Path) -> None:
    data = bytearray((copied / "decoder.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "decoder.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match="the decoder of model gru has digest"):
        read_bundle(copied).verify()


def test_a_missing_encoder_is_refused(copied: Path) -> None:
    shutil.rmtree(copied.parent / "encoders")
    with pytest.raises(BundleError, match="cannot read"):
        read_bundle(copied).verify()


def test_a_vocabulary_of_another_size_is_refused(copied: Path) -> None:
    words = read_bundle(copied).description["vocabulary"]
    with pytest.raises(BundleError, match=r"words, the decoder needs"):
        load_decoder(rewrite(copied, vocabulary=words[:-1]))


def test_a_decoder_of_another_shape_is_refused(copied: Path) -> None:
    decoder = read_bundle(copied).description["decoder"]
    with pytest.raises(BundleError, match=r"it does not fit the weights in decoder\.safetensors: concepts\.initial"):
        load_decoder(rewrite(copied, decoder=decoder | {"cell": "lstm"}))
    with pytest.raises(BundleError, match=r"decoder\.colour: unexpected"):
        load_decoder(rewrite(copied, decoder=decoder | {"colour": "blue"}))


def test_another_preprocessing_is_refused(copied: Path) -> None:
    preprocessing = read_bundle(copied).description["preprocessing"]
    with pytest.raises(BundleError, match=r"preprocessing\.version: .* not 99"):
        preprocessing_of(rewrite(copied, preprocessing=preprocessing | {"version": 99}))


def test_a_bundle_of_an_older_preprocessing_is_refused_with_the_command_that_exports_it_again(copied: Path) -> None:
    preprocessing = read_bundle(copied).description["preprocessing"]
    with pytest.raises(BundleError) as caught:
        preprocessing_of(rewrite(copied, name="mine", preprocessing=preprocessing | {"version": 1}))
    assert str(caught.value) == (
        f"{copied / 'bundle.json'}: preprocessing.version: this captionmill prepares images as in version 2, not 1."
        " Export it again from its run: `training export --run RUN --name mine -o FOLDER`."
    )


def test_a_bundle_of_the_first_format_is_refused_in_one_line_and_the_built_in_one_does_not_take_its_place(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(copied, format=1)
    with pytest.raises(BundleError) as caught:
        named("gru", find_bundles([copied]))
    assert str(caught.value) == (
        f"{copied / 'bundle.json'}: format: this captionmill reads bundles of format 2, not 1. Export it again from its"
        " run: `training export --run RUN --name gru -o FOLDER`."
    )
    assert capsys.readouterr().err == ""


def test_an_outdated_bundle_is_told_when_somebody_asks_for_it_and_disturbs_nobody_else(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdate(copied, "mine")
    bundles = find_bundles([copied])
    assert sorted(bundles) == ["gru", "lstm"]
    assert named("lstm", bundles).name == "lstm"
    assert capsys.readouterr().err == ""
    with pytest.raises(BundleError, match="training export --run RUN --name mine"):
        named("mine", bundles)
    bundles.report_outdated()
    assert capsys.readouterr().err.startswith(f"left out: {copied / 'bundle.json'}: preprocessing.version: ")


def test_an_outdated_bundle_in_the_place_of_a_built_in_one_does_not_let_the_built_in_one_caption(copied: Path) -> None:
    outdate(copied, "gru")
    with pytest.raises(BundleError, match=r"preprocessing\.version"):
        named("gru", find_bundles([copied]))
    assert named("gru", find_bundles([copied, BUILT_IN])).folder == BUILT_IN / "gru"


def test_the_encoder_of_a_bundle_loads(copied: Path) -> None:
    assert load_encoder(read_bundle(copied)).encoder.stride == "3x3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON: Expecting"),
        ("[]", "not a JSON object"),
        (
            '{"format": 3}',
            r"bundle\.json: format: this version reads bundles of format 2, not 3\. Re-export the bundle\.",
        ),
        ('{"format": 2}', r"bundle\.json: name: field required\. Re-export the bundle\."),
        (None, "no model bundle at"),
    ],
)
def test_an_invalid_bundle_is_refused_in_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_bundle_of_the_user_replaces_a_built_in_one_of_the_same_name(copied: Path) -> None:
    assert find_bundles([copied.parent])["gru"].folder == copied
    assert find_bundles([copied])["gru"].folder == copied


def test_the_error_for_an_unknown_model_lists_the_available_ones() -> None:
    with pytest.raises(UsageError, match="available: gru, lstm"):
        named("blip", find_bundles())
