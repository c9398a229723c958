"""The filter lets through what `wake_workers` sends, and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.queue.celery_app import make_celery
from captioning.queue.message import TASK_NAME, TASK_TIME_LIMIT_SECONDS, is_wake_message
from captioning.settings import read_settings

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def wake_message() -> str:
    """A wake-up message as it is written to Redis."""
    app = make_celery(read_settings(broker_url="redis://127.0.0.1:9/0"))
    with app.connection_for_write() as connection:
        channel = connection.transport.Channel.__new__(connection.transport.Channel)
        channel.body_encoding, channel.connection = "base64", connection.transport
        message = app.amqp.as_task_v2("an-id", TASK_NAME, ignore_result=True)
        prepared = channel.prepare_message(
            json.dumps(message.body), 0, "application/json", "utf-8", message.headers, dict(message.properties)
        )
        channel._inplace_augment_message(prepared, "", "captions")
        return json.dumps(prepared)


def test_a_wake_message_is_recognised(wake_message: str) -> None:
    assert is_wake_message(json.loads(wake_message))


@given(any_json)
def test_no_other_json_value_is_taken_for_one_or_raises(value: object) -> None:
    assert is_wake_message(value) is False


@given(data=st.data())
def test_a_wake_message_with_another_part_is_refused(wake_message: str, data: st.DataObject) -> None:
    message = json.loads(wake_message)
    part = data.draw(st.sampled_from(["body", "headers", "properties", "content-type", "content-encoding"]))
    message[part] = data.draw(any_json)
    assert is_wake_message(message) is False


@given(data=st.data())
def test_a_wake_message_with_another_header_is_refused_unless_it_changes_nothing(
    wake_message: str, data: st.DataObject
) -> None:
    message = json.loads(wake_message)
    header = data.draw(st.sampled_from(["task", "id", "eta", "expires", "timelimit"]))
    message["headers"][header] = value = data.draw(any_json)
    harmless = {
        "task": value == TASK_NAME,
        "id": isinstance(value, str),
        "eta": not value,
        "expires": not value,
        "timelimit": value in ([None, None], [TASK_TIME_LIMIT_SECONDS, None]),
    }[header]
    assert is_wake_message(message) is harmless
