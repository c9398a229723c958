"""Redis as Celery's transport, deaf to everything that isn't a bell.

Whoever can write to the broker can put anything into the queue. Celery would read some of it as other tasks, hold
some back for days, and end at what isn't JSON at all. Here one rule stands before all that: a message that `ring`
could not have sent is dropped and counted. Nothing of it is decoded further, logged or run.
"""

import base64
import json
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

QUEUE = "captions"
CAPTION_CHUNK = "captioning.caption_chunk"
TIME_LIMIT = 3600  # seconds that Celery gives a task; a backstop far beyond the lease
_LONGEST = 10_000  # characters of a message's body; a bell has about a hundred


class Dropped:
    """How many messages this process has dropped."""

    count = 0


def is_bell(message: Any) -> bool:
    """Tell whether a message, JSON already, is a bell: our task, at once, without arguments or sequels."""
    try:
        headers, properties = message["headers"], message["properties"]
        body = message["body"]
        if len(body) > _LONGEST:
            return False
        args, kwargs, sequels = json.loads(base64.b64decode(body, validate=True))
        return (
            headers["task"] == CAPTION_CHUNK
            and isinstance(headers["id"], str)
            and not (headers.get("eta") or headers.get("expires"))
            and headers.get("timelimit", [None, None]) in ([None, None], [TIME_LIMIT, None])
            and (message["content-type"], message["content-encoding"]) == ("application/json", "utf-8")
            and properties["body_encoding"] == "base64"
            and isinstance(properties["delivery_tag"], str)
            and isinstance(properties["delivery_info"]["exchange"], str)
            and isinstance(properties["delivery_info"]["routing_key"], str)
            and args == []
            and kwargs == {}
            and not any(sequels.values())
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return False


class QoS(redis.QoS):
    """A bell that can't be acknowledged is out of our hands all the same; the broker rings it again, at most.

    kombu would hold it for ever, and with one bell at a time the worker would hear no other.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            super(redis.QoS, self).ack(delivery_tag)  # type: ignore[no-untyped-call]
            raise

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back that its worker didn't acknowledge; drop what no worker of ours can have noted down."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            Dropped.count += 1
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """What is no JSON never becomes a message."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError):  # of the JSON parser: `_deliver` below lets only bells through
            Dropped.count += 1
            raise Empty from None


class Transport(redis.Transport):
    """What is no bell is not delivered; other queues are Celery's own, for its remote control."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if queue == QUEUE and not is_bell(message):
            Dropped.count += 1
            return
        super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def register() -> None:
    """Make this what redis:// and rediss:// mean in this process."""
    TRANSPORT_ALIASES.update(redis=f"{__name__}:Transport", rediss=f"{__name__}:Transport")
