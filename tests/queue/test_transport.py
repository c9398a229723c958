"""A bell is what `ring` sends and nothing else is: whatever lies in the queue, the answer is yes or no."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.queue.celery_app import make_celery
from captioning.queue.transport import TASK_NAME, is_wake_message
from captioning.settings import read_settings

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def bell() -> str:
    """A bell as it goes to Redis."""
    app = make_celery(read_settings(broker_url="redis://127.0.0.1:9/0"))
    sent: list[str] = []
    with app.connection_for_write() as connection:
        channel = connection.transport.Channel.__new__(connection.transport.Channel)
        channel.body_encoding, channel.connection = "base64", connection.transport
        message = app.amqp.as_task_v2("an-id", TASK_NAME, ignore_result=True)
        body = json.dumps(message.body)
        prepared = channel.prepare_message(
            body, 0, "application/json", "utf-8", message.headers, dict(message.properties)
        )
        channel._inplace_augment_message(prepared, "", "captions")
        sent.append(json.dumps(prepared))
    return sent[0]


def test_what_ring_sends_is_a_bell(bell: str) -> None:
    assert is_wake_message(json.loads(bell))


@given(anything)
def test_no_value_of_json_is_mistaken_or_breaks_the_question(value: object) -> None:
    assert is_wake_message(value) is False


@given(data=st.data())
def test_a_bell_with_any_part_exchanged_is_none_unless_that_part_says_nothing(bell: str, data: st.DataObject) -> None:
    message = json.loads(bell)
    where = data.draw(st.sampled_from(["body", "headers", "properties", "content-type", "content-encoding"]))
    message[where] = data.draw(anything)
    assert is_wake_message(message) is False
    message = json.loads(bell)
    where = data.draw(st.sampled_from(["task", "id", "eta", "expires", "timelimit"]))
    message["headers"][where] = value = data.draw(anything)
    harmless = (where == "id" and isinstance(value, str)) or (where in ("eta", "expires") and not value)
    assert is_wake_message(message) is harmless
