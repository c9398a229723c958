"""An image that kills its decode process, or keeps it busy, or takes too much memory, fails alone."""

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

from captioning.decoding.child import HEADER, Options
from captioning.decoding.pool import MAX_ATTEMPTS_WHEN_KILLED, DecodedImage, DecodePool
from captioning.errors import DecodePoolUnavailable, ImageError
from captioning.model.pixels import Limits
from captioning.values import Reason

SIZE = 224
LIMITS = Limits(10_000_000)
CHILD = "tests.faults.decode_child"
PROJECT = Path(__file__).parents[2]


def image(word: str = "") -> bytes:
    """Return a JPEG; the word after its end makes the decode process of the fault suite misbehave."""
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(out, "JPEG")
    return out.getvalue() + word.encode()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let decode processes import the tests: they start with a safe path (-P)."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    made = DecodePool(2, SIZE, LIMITS, 60.0, module=CHILD)
    yield made
    made.close()


@pytest.fixture
def impatient_pool() -> Iterator[DecodePool]:
    made = DecodePool(2, SIZE, LIMITS, 5.0, module=CHILD)
    yield made
    made.close()


def decode_all(
    pool: DecodePool, words: list[str], attempts: int = 0
) -> tuple[list[DecodedImage | ImageError], list[str]]:
    """Decode an image for each word. Return the results, and the word for each process that died."""
    blamed: list[str] = []

    def decode(word: str) -> DecodedImage | ImageError:
        try:
            return pool.decode(image(word), attempts, lambda: blamed.append(word))
        except ImageError as error:
            return error

    return list(pool.map(decode, words)), blamed


def reason(result: DecodedImage | ImageError) -> Reason | None:
    return result.reason if isinstance(result, ImageError) else None


def test_good_images_are_decoded_in_order(pool: DecodePool) -> None:
    results, blamed = decode_all(pool, [""] * 20)
    for result in results:
        assert isinstance(result, DecodedImage)
        assert (result.info.width, result.pixels.shape) == (40, (SIZE, SIZE, 3))
    assert blamed == []


@pytest.mark.parametrize(
    ("word", "expected", "detail"),
    [
        ("CRASH", Reason.CRASHED, "decoding killed the process 2 times"),
        ("HANG", Reason.TIMEOUT, "decoding takes more than 5 s (CAPTIONING_DECODE_TIMEOUT_SECONDS)"),
    ],
)
def test_an_image_that_kills_its_process_twice_is_to_blame_and_its_neighbours_are_not(
    impatient_pool: DecodePool, word: str, expected: Reason, detail: str
) -> None:
    results, blamed = decode_all(impatient_pool, ["", "", word, "", "", ""])
    assert [reason(result) for result in results] == [None, None, expected, None, None, None]
    assert str(results[2]) == detail
    assert blamed == [word, word]


def message(head: str, data: bytes = b"") -> str:
    """Return the word that makes a process send this message."""
    return f"TAKEN OVER {(HEADER.pack(len(head), len(data)) + head.encode() + data).hex()}!"


@pytest.mark.parametrize(
    "word",
    [
        f"TAKEN OVER {HEADER.pack(2**62, 2**62).hex()}!",
        message("no json"),
        message("[" * 50_000),
        message("[]"),
        message("{}"),
        message('{"reason": "because", "detail": ""}'),
        message('{"width": 1, "height": 1, "format": "JPEG", "rows": 224, "columns": 224}', b"too short"),
        message('{"width": 1, "height": 1, "format": "JPEG", "rows": 224, "columns": -1}', bytes(SIZE * SIZE * 3)),
        message('{"width": 1, "height": 1, "format": "JPEG", "rows": 2, "columns": 1}', bytes(6)),
        message('{"width": 1, "height": 1, "format": "JPEG", "rows": [], "columns": 1}', bytes(6)),
        message('{"width": -1, "height": 1, "format": "JPEG", "rows": 224, "columns": 224}', bytes(SIZE * SIZE * 3)),
        message('{"width": 1, "height": 1, "format": "\\u0000", "rows": 224, "columns": 224}', bytes(SIZE * SIZE * 3)),
    ],
)
def test_an_invalid_answer_counts_as_a_crash(pool: DecodePool, word: str) -> None:
    results, blamed = decode_all(pool, [word, ""])
    assert [reason(result) for result in results] == [Reason.CRASHED, None]
    assert blamed == [word, word]


def test_a_decode_process_does_not_get_passwords(pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONING_BROKER_URL", "redis://:secret@h/0")
    monkeypatch.setenv("PGPASSWORD", "secret")
    decode_all(pool, ["", ""])
    for process in pool._processes:
        assert "secret" not in " ".join(psutil.Process(process.pid).environ().values())


def test_earlier_attempts_count(pool: DecodePool) -> None:
    results, blamed = decode_all(pool, ["CRASH"], attempts=1)
    assert reason(results[0]) is Reason.CRASHED
    assert blamed == ["CRASH"]


def test_an_image_gets_more_attempts_when_its_process_is_killed_from_outside(pool: DecodePool) -> None:
    """A system without memory kills any process; an image whose process is killed every time is to blame."""
    results, blamed = decode_all(pool, ["KILLED", ""])
    assert [reason(result) for result in results] == [Reason.CRASHED, None]
    assert blamed == ["KILLED"] * MAX_ATTEMPTS_WHEN_KILLED


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit address space")
def test_an_image_that_takes_all_memory_is_too_large(pool: DecodePool) -> None:
    results, _ = decode_all(pool, ["BLOAT", ""])
    assert [reason(result) for result in results] == [Reason.TOO_LARGE, None]


def test_output_of_a_library_does_not_disturb(pool: DecodePool) -> None:
    results, blamed = decode_all(pool, ["NOISE", ""])
    assert [reason(result) for result in results] == [None, None]
    assert blamed == []


def test_no_image_is_to_blame_when_no_process_starts() -> None:
    pool = DecodePool(1, SIZE, LIMITS, 2.0, module="tests.faults.no_such_module")
    with pytest.raises(DecodePoolUnavailable, match="does not start"):
        decode_all(pool, ["", ""])
    pool.close()


def test_no_image_is_to_blame_when_there_are_no_file_handles() -> None:
    code = f"""
import os, resource
from captioning.decoding.pool import DecodePool
from captioning.errors import DecodePoolUnavailable
from captioning.model.pixels import Limits
from tests.decoding.test_pool import decode_all
pool = DecodePool(1, {SIZE}, Limits(), 2.0, module="{CHILD}")
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    decode_all(pool, [""])
except DecodePoolUnavailable as error:
    print(error)
pool.close()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "cannot start a process that decodes images: Too many open files\n"


def test_a_file_that_is_not_an_image_does_not_end_its_process(pool: DecodePool) -> None:
    with pytest.raises(ImageError) as caught:
        next(iter(pool.map(lambda data: pool.decode(data, 0, lambda: None), [b"no image"])))
    assert caught.value.reason is Reason.UNREADABLE
    before = set(pool._processes)
    assert isinstance(decode_all(pool, [""])[0][0], DecodedImage)
    assert before <= pool._processes


def test_closing_leaves_no_process(pool: DecodePool) -> None:
    decode_all(pool, ["", "", ""])
    children = psutil.Process(os.getpid()).children(recursive=True)
    own = [child for child in children if CHILD in " ".join(child.cmdline())]
    assert own
    pool.close()
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in own)


@pytest.mark.parametrize("module", ["captioning.decoding.child", "captioning.decoding.pool"])
def test_decoding_loads_neither_torch_nor_celery_nor_the_store(module: str) -> None:
    code = f"import sys, {module}; sys.exit(not {{'torch', 'celery', 'sqlalchemy'}}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_signals_for_the_worker_do_not_end_a_decode_process(pool: DecodePool) -> None:
    """systemd and terminals signal every process of a group."""
    decode_all(pool, ["", ""])
    for process in list(pool._processes):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
    results, blamed = decode_all(pool, [""] * 6)
    assert all(isinstance(result, DecodedImage) for result in results)
    assert blamed == []


def test_time_in_which_all_processes_are_stopped_does_not_count() -> None:
    """After a laptop has slept, or a container was paused, the image that was being decoded has not timed out."""
    code = f"""
from captioning.decoding.pool import DecodePool
from captioning.model.pixels import Limits
from tests.decoding.test_pool import decode_all
pool = DecodePool(1, {SIZE}, Limits(), 2.0, module="{CHILD}")
decode_all(pool, [""])
print("ready", flush=True)
results, blamed = decode_all(pool, ["SLOW"])
print(blamed, type(results[0]).__name__, flush=True)
pool.close()
"""
    running = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(0.3)
    os.killpg(running.pid, signal.SIGSTOP)
    time.sleep(4)  # twice as long as the timeout
    os.killpg(running.pid, signal.SIGCONT)
    out, _ = running.communicate(timeout=60)
    assert out == "[] DecodedImage\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has oom_score_adj")
def test_when_memory_runs_out_a_decode_process_is_killed_before_the_model(pool: DecodePool) -> None:
    decode_all(pool, [""])
    for process in pool._processes:
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


def test_a_pool_for_people_keeps_the_aspect_ratio_and_enlarges_nothing() -> None:
    wide = io.BytesIO()
    Image.new("RGB", (900, 300), "red").save(wide, "PNG")
    pool = DecodePool(1, SIZE, LIMITS, 60.0, options=Options(keep_aspect=True))
    try:
        shapes = list(
            pool.map(lambda data: pool.decode(data, 0, lambda: None).pixels.shape, [wide.getvalue(), image()])
        )
    finally:
        pool.close()
    assert shapes == [(75, 224, 3), (30, 40, 3)]
