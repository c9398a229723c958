"""Training settings: parsed, checked, and saved as JSON."""

import dataclasses
import json

import pytest

from captioning.errors import UsageError
from training.config import TrainConfig, with_settings

WRONG = [
    ("min_count", "--set takes name=value, not 'min_count'"),
    ("colour=1", "--set colour=1: there is no setting colour; names are kind"),
    ("cells=gru", "--set cells=gru: there is no setting cells"),
    ("embed_dims=3", "did you mean"),
    ("views=9", "views=9: write a whole number from 1 to 4"),
    ("temperature=0", "temperature=0: write a number above 0"),
    ("encoder_learning_rate=-1", "encoder_learning_rate=-1: write a number from 0 up"),
    ("scst_learning_rate=-1", "scst_learning_rate=-1: write a number from 0 up"),
    ("label_smoothing=2", "label_smoothing=2: write a number from 0 to 1"),
    ("weight_decay=nan", "weight_decay=nan: write a number from 0 up"),
    ("epochs=0", "nothing to train"),
    ("distilled=true", "name the decoders that write the captions, --start RUN"),
    ("epochs=ten", "epochs=ten: write a whole number from 0 up"),
    ("keep_last=maybe", "keep_last=maybe: write true or false"),
    ("optimizer=sgd", "optimizer=sgd: write adamw, nadam or radam"),
    ("memory_size=100", "memory_size=100: give a multiple of 8"),
    ("kind=transformer", "kind=transformer: kind must be one of plain, "),
]


def test_settings_are_parsed_by_the_types_of_their_fields() -> None:
    config = with_settings(TrainConfig(), ["min_count=3", "keep_last=true", "optimizer=nadam", "weight_decay=0.1"])
    assert (config.min_count, config.keep_last, config.optimizer, config.weight_decay) == (3, True, "nadam", 0.1)


@pytest.mark.parametrize(("setting", "message"), WRONG)
def test_a_wrong_setting_is_refused_with_its_value(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        with_settings(TrainConfig(), [setting])
    assert message in str(error.value)


@pytest.mark.parametrize("cells", [(), ("lstm", "lstm"), ("rnn",)])
def test_cells_are_different_and_known(cells: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="cells="):
        TrainConfig(cells=cells)  # type: ignore[arg-type]


def test_a_config_is_the_same_after_a_round_trip_through_json() -> None:
    config = TrainConfig(cells=("lstm", "gru"), learning_rate=3e-4, keep_last=True)
    assert TrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
