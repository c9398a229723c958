"""Images that kill, hang or bloat the process that opens them fail alone, by name."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from captioning.decoding.child import HEADER
from captioning.decoding.pool import KILLS, DecodedImage, DecodePool, DecodePoolUnavailable
from captioning.errors import ImageError
from captioning.model.pixels import Limits
from captioning.values import Reason


def image(word: str = "") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(out, "JPEG")
    return out.getvalue() + word.encode()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """DecodePool start with a safe path, on which the tests are not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def decode_pool() -> Iterator[DecodePool]:
    made = DecodePool(2, 224, Limits(10_000_000), 60.0, module="tests.faults.decode_child")
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[DecodePool]:
    """DecodePool that don't wait long for an image that hangs."""
    made = DecodePool(2, 224, Limits(10_000_000), 5.0, module="tests.faults.decode_child")
    yield made
    made.close()


def open_all(decode_pool: DecodePool, words: list[str], deaths: int = 0) -> tuple[list[DecodedImage | ImageError], list[str]]:
    blamed: list[str] = []

    def one(word: str) -> DecodedImage | ImageError:
        try:
            return decode_pool.open(image(word), deaths, lambda: blamed.append(word))
        except ImageError as wrong:
            return wrong

    return list(decode_pool.map(one, words)), blamed


def test_good_images_open_in_order(decode_pool: DecodePool) -> None:
    found, blamed = open_all(decode_pool, [""] * 20)
    assert all(isinstance(one, DecodedImage) and one.facts.width == 40 and one.pixels.shape == (224, 224, 3) for one in found)
    assert blamed == []


@pytest.mark.parametrize(("word", "reason"), [("CRASH", Reason.CRASHED), ("HANG", Reason.TIMEOUT)])
def test_a_image_that_kills_its_opener_twice_is_to_blame_and_its_neighbours_are_not(
    hasty: DecodePool, word: str, reason: Reason
) -> None:
    found, blamed = open_all(hasty, ["", "", word, "", "", ""])
    assert [one.reason if isinstance(one, ImageError) else None for one in found] == [
        None,
        None,
        reason,
        None,
        None,
        None,
    ]
    assert blamed == [word, word]


def frame(said: str, data: bytes = b"") -> str:
    return f"TAKEN OVER {(HEADER.pack(len(said), len(data)) + said.encode() + data).hex()}!"


@pytest.mark.parametrize(
    "words",
    [
        f"TAKEN OVER {HEADER.pack(2**62, 2**62).hex()}!",
        frame("no json"),
        frame("[" * 50_000),
        frame("[]"),
        frame("{}"),
        frame('{"reason": "because", "detail": ""}'),
        frame('{"width": 1, "height": 1, "format": "JPEG"}', b"too short"),
        frame('{"width": -1, "height": 1, "format": "JPEG"}', bytes(224 * 224 * 3)),
        frame('{"width": 1, "height": 1, "format": "\\u0000"}', bytes(224 * 224 * 3)),
    ],
)
def test_an_opener_that_a_image_has_taken_over_is_believed_nothing(decode_pool: DecodePool, words: str) -> None:
    found, blamed = open_all(decode_pool, [words, ""])
    assert isinstance(found[0], ImageError)
    assert found[0].reason is Reason.CRASHED
    assert isinstance(found[1], DecodedImage)
    assert blamed == [words, words]


def test_an_opener_knows_no_password(decode_pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONING_BROKER_URL", "redis://:secret@h/0")
    monkeypatch.setenv("PGPASSWORD", "secret")
    open_all(decode_pool, ["", ""])
    for process in decode_pool._processes:
        assert "secret" not in " ".join(psutil.Process(process.pid).environ().values())


def test_a_death_in_an_earlier_life_counts(decode_pool: DecodePool) -> None:
    found, blamed = open_all(decode_pool, ["CRASH"], deaths=1)
    assert isinstance(found[0], ImageError)
    assert blamed == ["CRASH"]


def test_a_image_must_be_there_at_more_deaths_when_something_else_kills(decode_pool: DecodePool) -> None:
    """The system, out of memory, kills whoever it likes; who is killed over one image again and again is told."""
    found, blamed = open_all(decode_pool, ["KILLED", ""])
    assert isinstance(found[0], ImageError)
    assert found[0].reason is Reason.CRASHED
    assert isinstance(found[1], DecodedImage)
    assert blamed == ["KILLED"] * KILLS


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not bound address space")
def test_a_image_that_wants_all_memory_is_too_large(decode_pool: DecodePool) -> None:
    found, _ = open_all(decode_pool, ["BLOAT", ""])
    assert isinstance(found[0], ImageError)
    assert found[0].reason is Reason.TOO_LARGE
    assert isinstance(found[1], DecodedImage)


def test_what_a_library_prints_does_not_disturb(decode_pool: DecodePool) -> None:
    found, _ = open_all(decode_pool, ["NOISE", ""])
    assert all(isinstance(one, DecodedImage) for one in found)


def test_when_no_opener_starts_no_image_is_to_blame() -> None:
    made = DecodePool(1, 224, Limits(10_000_000), 2.0, module="tests.faults.no_such_module")
    with pytest.raises(DecodePoolUnavailable):
        open_all(made, ["", ""])
    made.close()


def test_a_machine_without_free_file_handles_blames_no_image() -> None:
    code = """
import os, resource
from captioning.model.pixels import Limits
from tests.worker.test_openers import open_all
from captioning.decoding.pool import DecodePool, DecodePoolUnavailable
decode_pool = DecodePool(1, 224, Limits(), 2.0, module="tests.faults.decode_child")
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    open_all(decode_pool, [""])
except DecodePoolUnavailable as error:
    print(error)
decode_pool.close()
"""
    project = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert said.stdout == "no process to open images can be started: Too many open files\n"


def test_a_bad_image_is_a_result_and_its_opener_lives_on(decode_pool: DecodePool) -> None:
    with pytest.raises(ImageError) as caught:
        next(iter(decode_pool.map(lambda _: decode_pool.open(b"no image", 0, lambda: None), [0])))
    assert caught.value.reason is Reason.UNREADABLE
    assert isinstance(open_all(decode_pool, [""])[0][0], DecodedImage)


def test_closing_leaves_no_process(decode_pool: DecodePool) -> None:
    open_all(decode_pool, ["", "", ""])
    children = psutil.Process(os.getpid()).children(recursive=True)
    mine = [c for c in children if "tests.faults.decode_child" in " ".join(c.cmdline())]
    assert mine
    decode_pool.close()
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in mine)


def test_an_opener_never_loads_torch(tmp_path: Path) -> None:
    code = "import sys, captioning.decoding.child; sys.exit('torch' in sys.modules or 'sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_signals_to_stop_are_for_the_worker_and_blame_no_image(decode_pool: DecodePool) -> None:
    """systemd and terminals signal every process of a group."""
    open_all(decode_pool, ["", ""])
    for process in list(decode_pool._processes):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
    found, blamed = open_all(decode_pool, [""] * 6)
    assert all(isinstance(one, DecodedImage) for one in found)
    assert blamed == []


def test_time_in_which_everything_was_stopped_is_held_against_no_image() -> None:
    """A laptop that sleeps, a container that is frozen: on waking, whoever was being opened isn't late."""
    code = """
import os, threading
from captioning.model.pixels import Limits
from tests.worker.test_openers import open_all
from captioning.decoding.pool import DecodePool
decode_pool = DecodePool(1, 224, Limits(), 2.0, module="tests.faults.decode_child")
open_all(decode_pool, [""])
print("ready", flush=True)
found, blamed = open_all(decode_pool, ["SLOW"])
print(blamed, type(found[0]).__name__, flush=True)
decode_pool.close()
"""
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(0.3)
    os.killpg(running.pid, signal.SIGSTOP)
    time.sleep(4)  # twice what an image may take
    os.killpg(running.pid, signal.SIGCONT)
    out, _ = running.communicate(timeout=60)
    assert out == "[] DecodedImage\n"


@pytest.mark.skipif(sys.platform != "linux", reason="an OOM killer of Linux")
def test_when_memory_runs_out_an_opener_goes_before_the_model(decode_pool: DecodePool) -> None:
    open_all(decode_pool, [""])
    for process in decode_pool._processes:
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
