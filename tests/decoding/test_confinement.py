"""A decode process that an image has taken over can decode, and nothing else."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from captioning.decoding import landlock
from captioning.decoding.confinement import Confinement, available
from captioning.decoding.pool import DecodePool
from captioning.model.pixels import Limits
from scripts.hostile_images import make_corpus

PROJECT = Path(__file__).parents[2]
ALL = available()
pytestmark = pytest.mark.skipif(not (ALL.seccomp and ALL.landlock), reason="this kernel cannot confine processes")

SECCOMP, LANDLOCK, LIMITS_ONLY = Confinement(seccomp=True), Confinement(landlock=ALL.landlock), Confinement()
BY_SIGNALS_ONLY = {"kill"}  # refused by seccomp, and by Landlock in newer kernels
NOT_BY_LANDLOCK = {"fork", "executable memory"}
NOT_BY_LIMITS = NOT_BY_LANDLOCK | {"execute", "delete a file", "ptrace", "process_vm_readv", "kill"}


@dataclass(frozen=True)
class Machine:
    """What an attack may aim at."""

    victim: subprocess.Popen[bytes]
    port: int
    folder: Path

    def attacked(self, layers: Confinement | None) -> dict[str, str]:
        return run("attack", layers, str(self.victim.pid), str(self.port), str(self.folder))["found"]


def run(what: str, layers: Confinement | None, *arguments: str) -> Any:
    wanted = "none" if layers is None else json.dumps(asdict(layers))
    command = [sys.executable, "-m", "tests.decoding.confined", what, wanted, *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "file").write_text("secret")
    (tmp_path / "doomed").touch()
    victim = subprocess.Popen(["sleep", "600"])
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        yield Machine(victim, tcp.getsockname()[1], tmp_path)
    assert victim.poll() is None
    victim.kill()
    victim.wait()


def test_without_confinement_every_attack_succeeds(machine: Machine) -> None:
    """So the tests below show what refuses them."""
    assert set(machine.attacked(None).values()) == {"done"}


@pytest.mark.parametrize("layers", [ALL, SECCOMP], ids=str)
def test_seccomp_refuses_every_attack(machine: Machine, layers: Confinement) -> None:
    found = machine.attacked(layers)
    assert {name for name, outcome in found.items() if outcome == "done"} == set()
    assert (machine.folder / "file").read_text() == "secret"


def test_landlock_alone_refuses_files_programs_the_network_and_other_processes(machine: Machine) -> None:
    found = machine.attacked(LANDLOCK)
    weak = set() if ALL.landlock >= landlock.SIGNALS_SINCE else {"kill"}
    assert {name for name, outcome in found.items() if outcome == "done"} == NOT_BY_LANDLOCK | weak


def test_limits_alone_refuse_to_open_anything(machine: Machine) -> None:
    found = machine.attacked(LIMITS_ONLY)
    assert {name for name, outcome in found.items() if outcome == "done"} <= NOT_BY_LIMITS


def test_codecs_may_start_threads() -> None:
    assert run("threads", ALL)["found"] == {"threads": "3"}


def test_every_file_of_the_corpus_gives_the_same_confined_and_nothing_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    make_corpus(folder)
    free, confined = run("decode", None, str(folder)), run("decode", ALL, str(folder))
    assert confined["found"] == free["found"]
    assert len(free["found"]) > 400
    assert confined["applied"] == "confined by seccomp and Landlock"
    assert set(confined["imported"]) == set()


def test_a_layer_that_is_not_there_is_not_reported() -> None:
    assert run("threads", LIMITS_ONLY)["applied"] == "not confined"
    assert run("threads", SECCOMP)["applied"] == "confined by seccomp"
    assert run("threads", LANDLOCK)["applied"] == "confined by Landlock"


@pytest.mark.parametrize(
    ("layers", "complete"),
    [(ALL, True), (SECCOMP, True), (Confinement(landlock=4), True), (Confinement(landlock=3), False)],
)
def test_landlock_without_rules_for_the_network_is_not_enough(layers: Confinement, complete: bool) -> None:
    assert layers.is_complete is complete


def test_a_pool_says_how_its_processes_are_confined() -> None:
    pool = DecodePool(1, 224, Limits(), 20.0)
    assert str(pool.started().confinement) == "confined by seccomp and Landlock"
    pool.close()


def test_a_process_with_a_pool_hides_its_memory_and_environment_from_its_user() -> None:
    code = """
import ctypes, os
from pathlib import Path
from captioning.decoding.pool import DecodePool
from captioning.model.pixels import Limits
def readable(name):
    child = os.fork()
    if child == 0:
        try:
            Path(f"/proc/{os.getppid()}/{name}").open("rb").close()
        except PermissionError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # readable again, as a process that was started by this user
print(readable("mem"), readable("environ"))
DecodePool(1, 224, Limits(), 20.0).close()
print(readable("mem"), readable("environ"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "True True\nFalse False\n"
