"""The Celery app, and sending wake-up messages with it. Knows neither the store nor the model."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError, ResponseError

from captioning.environment import drop_foreign_variables
from captioning.errors import BrokerRefused
from captioning.queue.broker_errors import SHARDS, explain
from captioning.queue.message import QUEUE, TASK_NAME, TASK_TIME_LIMIT_SECONDS
from captioning.queue.transport import register
from captioning.settings import Settings

register()

KEY_PREFIX = "{captionmill}:"  # Redis in cluster mode keeps keys with the same text in braces on the same server
TRANSPORT_OPTIONS = {
    "visibility_timeout": 3600,  # seconds; leases in the database recover work much earlier
    "unacked_mutex_expire": 30,  # seconds; for a worker that dies while it restores what others left
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 3,
    "global_keyprefix": KEY_PREFIX,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "client_name": "captionmill",
}


def make_celery(settings: Settings) -> Celery:
    """Return the Celery app for these settings; nothing is connected yet."""
    if settings.worker_state_dir is None:  # not a pool process; `celery -A` does not come through our own command lines
        drop_foreign_variables()
    app = Celery("captionmill", broker=settings.broker or "redis://localhost:6379/0", set_as_current=False)
    app.conf.update(
        broker_transport_options=TRANSPORT_OPTIONS,
        broker_use_ssl=_tls(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker waits for its broker without limit
        broker_channel_error_retry=True,  # READONLY, OOM and MISCONF are temporary too
        broker_pool_acquire_timeout=30,
        task_queues=[Queue(QUEUE)],  # type: ignore[no-untyped-call]
        task_default_queue=QUEUE,
        task_create_missing_queues=False,
        result_backend=None,
        task_ignore_result=True,  # results are rows
        task_acks_late=True,  # after the commit
        task_reject_on_worker_lost=True,  # the message of a killed pool process is delivered again
        task_acks_on_failure=True,  # retries are the database's business
        task_acks_on_timeout=True,
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        worker_pool="prefork",
        worker_concurrency=1,  # one model per worker, one worker per GPU
        worker_pool_start_method="spawn",  # the parent's threads and CUDA do not survive a fork
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=300,  # seconds; loading the model may take that long
        worker_cancel_long_running_tasks_on_connection_loss=False,  # commits are idempotent
        worker_send_task_events=True,  # for Flower
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        task_time_limit=TASK_TIME_LIMIT_SECONDS,
        enable_utc=True,
    )
    return app


def wake_workers(app: Celery, wanted: int) -> int:
    """Fill the queue up to `wanted` wake-up messages; return how many were sent.

    Raises BrokerUnavailable when the broker does not answer. The sweeper of any worker then sends them later.
    """
    with _connected(app.connection_for_write()) as connection:
        missing = wanted - _queue_length(connection)
        for _ in range(missing):
            app.send_task(TASK_NAME, connection=connection, retry=False, ignore_result=True)
        return max(0, missing)


def queued_messages(app: Celery) -> int:
    """Return how many messages are in the queue. Raises BrokerUnavailable."""
    with _connected(app.connection_for_read()) as connection:
        return _queue_length(connection)


def refuse_shards(app: Celery) -> None:
    """Raise BrokerRefused when the broker is a cluster of several shards, BrokerUnavailable when it does not answer."""
    with _connected(app.connection_for_read()) as connection:
        channel: Any = connection.default_channel
        try:
            with channel.conn_or_acquire() as client:
                cluster = client.execute_command("CLUSTER INFO")
        except ResponseError:  # it is no cluster, or the user may not ask
            return
        if int(cluster.get("cluster_size", 0)) > 1:
            raise BrokerRefused(SHARDS)


@contextmanager
def _connected(connection: Connection) -> Iterator[Connection]:
    try:
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)  # type: ignore[no-untyped-call]
            yield connection
    except (OperationalError, RedisError, OSError) as error:
        raise explain(error) from error


def _queue_length(connection: Connection) -> int:
    """Return how many messages are in the queue, without those that workers hold."""
    channel: Any = connection.default_channel
    return int(channel._size(QUEUE))  # kombu's own count; a passive declare fails on an empty Redis list


def _tls(settings: Settings) -> dict[str, Any] | None:
    """Return what rediss:// requires of the server: a certificate for its host name, by an authority that we trust."""
    if not settings.broker.startswith("rediss:"):
        return None
    files = {
        "ssl_ca_certs": settings.broker_ca,
        "ssl_certfile": settings.broker_certificate,
        "ssl_keyfile": settings.broker_key,
    }
    options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    return options | {name: str(path) for name, path in files.items() if path}
