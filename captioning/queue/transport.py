"""Redis as Celery's transport, with a filter: only wake-up messages get through.

Anyone who can write to the broker can put anything into the queue. Celery would run some of it as other tasks, hold
some back for days, and crash on what is not JSON. So a message that `wake_workers` could not have sent is dropped and
counted before Celery sees it. Nothing of it is decoded further, logged or run.
"""

from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from captioning.queue.message import QUEUE, is_wake_message


class DroppedMessages:
    """How many messages this process has dropped."""

    count = 0


class QoS(redis.QoS):
    """Forgets a message that cannot be acknowledged; the broker delivers it again, which costs nothing.

    kombu would keep it forever, and with a prefetch count of one the worker would receive no other message.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            super(redis.QoS, self).ack(delivery_tag)  # type: ignore[no-untyped-call]
            raise

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put an unacknowledged message back into the queue; drop an entry that is not a message at all."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            DroppedMessages.count += 1
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """Drops what is not JSON."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError):  # from the JSON parser: `_deliver` below passes wake-up messages only
            DroppedMessages.count += 1
            raise Empty from None


class Transport(redis.Transport):
    """Drops what is not a wake-up message. Other queues are Celery's own, for its remote control."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if queue == QUEUE and not is_wake_message(message):
            DroppedMessages.count += 1
            return
        super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def register() -> None:
    """Make this the transport of redis:// and rediss:// URLs in this process."""
    TRANSPORT_ALIASES.update(redis=f"{__name__}:Transport", rediss=f"{__name__}:Transport")
