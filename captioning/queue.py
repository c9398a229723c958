"""The queue: Celery on Redis, and the one message, a doorbell.

The message carries no paths, no pixels, not even an id. It means *there is work*; what the work is, who does
it and how it went are rows. So a lost message costs a moment and a doubled one nothing. This module knows
neither the store nor the model; `celery -A captioning.queue flower` shows its tasks.
"""

import ssl
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from captioning.errors import ServiceTrouble
from captioning.settings import Settings, read_settings
from captioning.transport import CAPTION_CHUNK, QUEUE, TIME_LIMIT, register

register()

_TRANSPORT = {
    "visibility_timeout": 3600,  # seconds; leases in SQL recover long before
    "unacked_mutex_expire": 30,  # seconds, of a worker that dies while it hands back what others left
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 3,
    "global_keyprefix": "captionmill:",
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "client_name": "captionmill",
}


class BrokerUnavailable(ServiceTrouble):
    """The broker doesn't answer."""


def make_celery(settings: Settings) -> Celery:
    """Return the Celery app for these settings; nothing is connected yet."""
    app = Celery("captionmill", broker=settings.broker or "redis://localhost:6379/0", set_as_current=False)
    app.conf.update(
        broker_transport_options=_TRANSPORT,
        broker_use_ssl=_tls(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker waits for its broker as long as it takes
        broker_channel_error_retry=True,  # READONLY, OOM, MISCONF pass too
        broker_pool_acquire_timeout=30,
        task_queues=[Queue(QUEUE)],  # type: ignore[no-untyped-call]
        task_default_queue=QUEUE,
        task_create_missing_queues=False,
        result_backend=None,
        task_ignore_result=True,  # the database is the result
        task_acks_late=True,  # after the commit
        task_reject_on_worker_lost=True,  # a killed child's bell rings again
        task_acks_on_failure=True,  # retrying is the database's business
        task_acks_on_timeout=True,
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        worker_pool="prefork",
        worker_concurrency=1,  # one model a worker, one worker a GPU
        worker_pool_start_method="spawn",  # the parent's threads and CUDA don't survive a fork
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=300,  # seconds that loading the model may take
        worker_cancel_long_running_tasks_on_connection_loss=False,  # commits are idempotent
        worker_send_task_events=True,  # for Flower
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        task_time_limit=TIME_LIMIT,
        enable_utc=True,
    )
    return app


def _tls(settings: Settings) -> dict[str, Any] | None:
    """Return what rediss:// asks of the server: a certificate by an authority that we trust, made for that host."""
    if not settings.broker.startswith("rediss:"):
        return None
    files = {
        "ssl_ca_certs": settings.broker_ca,
        "ssl_certfile": settings.broker_certificate,
        "ssl_keyfile": settings.broker_key,
    }
    how: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    return how | {name: str(path) for name, path in files.items() if path}


def ring(app: Celery, wanted: int) -> int:
    """Fill the queue up to `wanted` bells; return how many were rung.

    Raises BrokerUnavailable when the broker doesn't answer; the sweeper of any worker will ring instead.
    """
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
            missing = wanted - _waiting(connection)
            for _ in range(missing):
                app.send_task(CAPTION_CHUNK, connection=connection, retry=False, ignore_result=True)
            return max(0, missing)
    except (OperationalError, RedisError, OSError) as trouble:
        raise BrokerUnavailable(f"the broker doesn't answer: {trouble}") from trouble


def waiting_bells(app: Celery) -> int:
    """Return how many bells lie in the queue. Raises BrokerUnavailable."""
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
            return _waiting(connection)
    except (OperationalError, RedisError, OSError) as trouble:
        raise BrokerUnavailable(f"the broker doesn't answer: {trouble}") from trouble


def _waiting(connection: Connection) -> int:
    """Return how many messages lie in the queue, not counting those that a worker has in hand."""
    channel: Any = connection.default_channel
    return int(channel._size(QUEUE))  # what kombu itself counts with; a passive declare fails on an empty Redis list


class _Lazy:
    """The app that `celery -A captioning.queue` finds, made when it is asked for and not at import."""

    app: Celery | None = None


def __getattr__(name: str) -> Celery:
    if name != "app":
        raise AttributeError(name)
    if _Lazy.app is None:
        _Lazy.app = make_celery(read_settings())
    return _Lazy.app
