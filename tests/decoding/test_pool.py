"""An image that kills its decode process, or keeps it busy, or takes too much memory, fails alone."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from PIL import Image

from captioning.decoding.messages import ANSWER, Options, create_memory
from captioning.decoding.pool import MAX_ATTEMPTS_WHEN_KILLED, DecodedImage, DecodePool, DecodeRequest
from captioning.errors import DecodePoolUnavailable, ImageError, LeaseLost
from captioning.features import THUMBNAIL_BYTES
from captioning.model.pixels import Limits
from captioning.values import Reason, digest_of_pixels
from tests.support.polling import wait_until

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
    requests = [DecodeRequest(image(word), number, attempts) for number, word in enumerate(words)]
    found = pool.decode_all(requests, lambda request: blamed.append(words[request.item]))
    results = {request.item: result for request, result in found}
    return [results[number] for number in range(len(words))], blamed


def processes(pool: DecodePool) -> set[subprocess.Popen[bytes]]:
    return {process.popen for process in pool._driver.processes}


def decodes_all(pool: DecodePool, words: list[str]) -> bool:
    """Return whether an image for each word is decoded, and no process dies."""
    results, blamed = decode_all(pool, words)
    return blamed == [] and all(isinstance(result, DecodedImage) for result in results)


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


NUMBER = 2**64 - 1  # replaced by the number of the image
FACTS = {"width": 1, "height": 1, "format": "JPEG", "rows": 224, "columns": 224}
SQUARE = json.dumps(FACTS | {"digest": "2:" + "0" * 32, "thumbnail": "88" * THUMBNAIL_BYTES})


def message(head: str, data: bytes = b"", number: int = NUMBER) -> str:
    """Return the word that makes a process send this answer."""
    return f"TAKEN OVER {(ANSWER.pack(number, len(head), len(data)) + head.encode() + data).hex()}!"


def square(field: str, value: str) -> str:
    """Return the word that makes a process answer with a square of which one fact is another."""
    assert f'"{field}": ' in SQUARE
    return message(re.sub(f'("{field}": )[^,}}]+', lambda found: found[1] + value, SQUARE))


@pytest.mark.parametrize(
    "word",
    [
        f"TAKEN OVER {ANSWER.pack(NUMBER, 2**62, 2**62).hex()}!",
        f"TAKEN OVER {ANSWER.pack(NUMBER, 10, 2**62).hex()}!",
        f"TAKEN OVER {ANSWER.pack(NUMBER, 2**62, 0).hex()}!",
        message("no json"),
        message("[" * 50_000),
        message("[]"),
        message("{}"),
        message('{"reason": "because", "detail": ""}'),
        message(SQUARE, number=0),
        message(SQUARE, number=10**6),
        message(SQUARE, b"pixels that belong into the memory"),
        square("columns", "-1"),
        square("columns", "223"),
        square("columns", "225"),
        square("rows", "[]"),
        square("rows", "1e3"),
        square("width", "-1"),
        square("height", "70000"),
        square("format", '"\\u0000"'),
        square("digest", '"2:00"'),
        square("thumbnail", '"88"'),
        square("thumbnail", '"no hex"'),
    ],
)
def test_an_invalid_answer_counts_as_a_crash(pool: DecodePool, word: str) -> None:
    results, blamed = decode_all(pool, [word, ""])
    assert [reason(result) for result in results] == [Reason.CRASHED, None]
    assert blamed == [word, word]


def test_an_image_that_lies_within_its_limits_harms_nobody_else(pool: DecodePool) -> None:
    """What its process returns for it is its own affair. Its real answer comes second and ends the process."""
    lie = message(SQUARE)
    results, _ = decode_all(pool, [lie])
    assert isinstance(results[0], DecodedImage)
    results, _ = decode_all(pool, [""] * 20)
    assert {reason(result) for result in results} == {None}


def test_answers_for_images_that_a_process_was_not_given_end_it_and_blame_nobody(pool: DecodePool) -> None:
    """They come when the process has nothing to decode."""
    results, blamed = decode_all(pool, ["AGAIN"])
    assert isinstance(results[0], DecodedImage)
    wait_until(lambda: not processes(pool), 30, "the end of the process")
    assert blamed == []
    assert decodes_all(pool, [""] * 20)


def test_pixels_that_were_passed_on_do_not_change_with_the_memory(pool: DecodePool) -> None:
    (first,), _ = decode_all(pool, [""])
    assert isinstance(first, DecodedImage)
    before = first.pixels.copy()
    decode_all(pool, ["SCRIBBLE"] * 20)
    assert (first.pixels == before).all()
    assert first.info.pixels == digest_of_pixels(first.pixels.tobytes())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux seals memory")
def test_no_side_can_resize_the_memory() -> None:
    descriptor = create_memory(10_000)
    assert descriptor is not None
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 5_000)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 20_000)
    os.close(descriptor)


def test_images_are_decoded_without_shared_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")  # as on macOS
    with closing(DecodePool(2, SIZE, LIMITS, 60.0, module=CHILD)) as pool:
        results, blamed = decode_all(pool, ["", "CRASH", "", "", message(SQUARE, b"short"), ""])
        assert [reason(result) for result in results] == [None, Reason.CRASHED, None, None, Reason.CRASHED, None]
        assert len(blamed) == 4


def test_a_file_that_is_larger_than_the_memory_is_decoded(pool: DecodePool) -> None:
    assert decodes_all(pool, ["", "x" * 5_000_000, ""])


def test_only_the_image_that_kills_is_blamed_when_a_process_has_several() -> None:
    words = ["", "", "CRASH", "", "KILLED", "", "", ""]
    with closing(DecodePool(1, SIZE, LIMITS, 60.0, module=CHILD)) as pool:
        results, blamed = decode_all(pool, words)
    assert sorted(blamed) == ["CRASH"] * 2 + ["KILLED"] * 4
    assert [reason(result) for result in results] == [(word and Reason.CRASHED) or None for word in words]


def test_slow_images_of_one_caller_do_not_hold_up_those_of_another(pool: DecodePool) -> None:
    decode_all(pool, ["", ""])
    order: list[str] = []

    def decode(word: str, count: int) -> None:
        requests = [DecodeRequest(image(word), None)] * count
        order.extend(word for _ in pool.decode_all(requests, lambda _: None))

    callers = [threading.Thread(target=decode, args=arguments) for arguments in (("SLOW", 12), ("", 60))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(order) == 72
    assert "".join(order[-6:]) == "SLOW" * 6


def test_the_time_in_which_an_image_waits_in_its_process_does_not_count() -> None:
    with closing(DecodePool(1, SIZE, LIMITS, 3.0, module=CHILD)) as pool:
        assert decodes_all(pool, ["SLOW"] * 5)  # a second each


def test_a_caller_that_leaves_disturbs_nobody(pool: DecodePool) -> None:
    left = pool.decode_all([DecodeRequest(image("SLOW"), None)] * 50, lambda _: None)
    next(left)
    left.close()
    assert decodes_all(pool, [""] * 20)


def test_an_error_in_counting_a_death_ends_the_callers_work(pool: DecodePool) -> None:
    def lose_lease(_: object) -> None:
        raise LeaseLost("x")

    with pytest.raises(LeaseLost):
        list(pool.decode_all([DecodeRequest(image("CRASH"), None), DecodeRequest(image(), None)], lose_lease))
    assert decodes_all(pool, [""] * 20)


def test_a_pool_that_is_closed_tells_those_who_wait(pool: DecodePool) -> None:
    waiting = pool.decode_all([DecodeRequest(image("HANG"), None), DecodeRequest(image(), None)], lambda _: None)
    next(waiting)
    pool.close()
    with pytest.raises(DecodePoolUnavailable, match="were stopped"):
        next(waiting)
    with pytest.raises(DecodePoolUnavailable, match="were stopped"):
        pool.decode(image())


def test_a_decode_process_does_not_get_passwords(pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONING_BROKER_URL", "redis://:secret@h/0")
    monkeypatch.setenv("PGPASSWORD", "secret")
    decode_all(pool, ["", ""])
    for process in processes(pool):
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
        pool.decode(b"no image")
    assert caught.value.reason is Reason.UNREADABLE
    before = processes(pool)
    assert isinstance(decode_all(pool, [""])[0][0], DecodedImage)
    assert before <= processes(pool)


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
    for process in processes(pool):
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
    for process in processes(pool):
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


def test_a_pool_for_people_keeps_the_aspect_ratio_and_enlarges_nothing() -> None:
    wide = io.BytesIO()
    Image.new("RGB", (900, 300), "red").save(wide, "PNG")
    with closing(DecodePool(1, SIZE, LIMITS, 60.0, options=Options(keep_aspect=True))) as pool:
        shapes = [pool.decode(data).pixels.shape for data in (wide.getvalue(), image())]
    assert shapes == [(75, 224, 3), (30, 40, 3)]
