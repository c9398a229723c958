"""Measure decoding: images a second, what each costs the process with the model, and where large ones take time.

python -m benchmarks.decode                   # processes: 1 and as many as there are cores
python -m benchmarks.decode --processes 1 4 15 --seconds 10

`parent` is the CPU time of this process for an image, in microseconds; `driver` is that of the thread that drives the
decode processes. `instant` processes answer at once, so that their rate is the most that this process can serve;
`beside Python` is that rate while another thread runs Python all the time. All images are made up.
"""

import argparse
import functools
import io
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import decode_by_threads
from captioning.decoding.messages import Layout, Memory, create_memory
from captioning.decoding.pool import DecodePool, DecodeRequest
from captioning.environment import available_cores, set_for_children
from captioning.model.pixels import Limits, open_image
from captioning.store.leases import ClaimedItem
from scripts.scenes import saved
from worker.disk_reader import DiskReader
from worker.reader import FileBytes

SIZE = 224
SIZES = {"224 px": (224, 224), "12 MP": (4000, 3000), "24 MP": (6000, 4000)}
INSTANT, DECODING = "tests.decoding.instant_child", "captioning.decoding.child"
_DETAILS = (8, 32, 128, 512)  # per 4000 pixels; of the layers of a photograph


def photograph(seed: int, width: int, height: int) -> bytes:
    """Return a JPEG that is about as hard to decode as a photograph: details of all sizes, and noise."""
    rng = np.random.default_rng(seed)
    total = rng.normal(0, 6, (height, width, 1)).astype(np.float32) + np.zeros((1, 1, 3), np.float32)
    for detail in _DETAILS:
        shape = (max(2, height * detail // 4000), max(2, width * detail // 4000), 3)
        layer = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).resize((width, height))
        total += np.asarray(layer, np.float32) / len(_DETAILS)
    return saved(Image.fromarray(total.clip(0, 255).astype(np.uint8)), "JPEG", quality=90)


class Meter:
    """Counts images, and the CPU time of this process and of one of its threads."""

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self._clock = time.pthread_getcpuclockid(thread.ident) if thread and thread.ident else None
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), time.clock_gettime(self._clock) if self._clock else 0.0

    def report(self, images: int) -> str:
        wall, process, thread = (now - began for now, began in zip(self._now(), self._began, strict=True))
        driver = f", driver {thread / images * 1e6:4.0f}" if self._clock else ""
        return f"{images / wall:7.0f} images/s, parent {process / images * 1e6:5.0f} us{driver}"


def measure_pool(files: list[bytes], processes: int, seconds: float, module: str, *, beside: bool = False) -> str:
    """Decode files again and again for some seconds."""
    stop = threading.Event()
    with closing(DecodePool(processes, SIZE, Limits(), 60.0, module)) as pool:
        for _ in pool.decode_all([DecodeRequest(files[0], None)] * 8 * processes, print):
            pass  # until all processes have started
        if beside:
            threading.Thread(target=_run_python, args=(stop,), daemon=True).start()
        meter, done = Meter(pool._driver._thread), 0
        ends = time.monotonic() + seconds
        endless = (DecodeRequest(data, None) for data in cycle(files))
        for _ in pool.decode_all(endless, print):
            done += 1
            if time.monotonic() > ends:
                break
        found = meter.report(done)
    stop.set()
    return found


def _run_python(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(100))


def measure_threads(files: list[bytes], processes: int, images: int, kind: str) -> str:
    """Decode `images` images in the old way."""
    found = decode_by_threads.decode_all(list(islice(cycle(files), images)), processes, SIZE, kind)
    for _ in range(processes):
        next(found)
    meter = Meter()
    return meter.report(sum(1 for _ in found))


def print_rates(counts: Iterable[int], seconds: float) -> None:
    """Print rates for small images, without and with decoding, and for large ones."""
    files = {name: [photograph(seed, *size) for seed in range(3)] for name, size in SIZES.items()}
    for name, some in files.items():
        print(f"{name}: {np.mean([len(data) for data in some]) / 1000:.0f} KB")
    small = files["224 px"]
    for count in counts:
        print(f"{count} processes")
        print("  instant, a thread each ", measure_threads(small, count, round(1000 * seconds), "instant"))
        print("  instant, one driver    ", measure_pool(small, count, seconds, INSTANT))
        print("  instant, beside Python ", measure_pool(small, count, seconds, INSTANT, beside=True))
        print("  224 px, a thread each  ", measure_threads(small, count, round(500 * seconds), "decode"))
        for name, some in files.items():
            print(f"  {name}, one driver".ljust(25), measure_pool(some, count, seconds, DECODING))


def milliseconds(work: Callable[[], object], times: int = 7) -> float:
    """Return the least CPU time of several runs."""
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found) * 1e3


def print_stages() -> None:
    """Print what the stages of an image take, in milliseconds of one core."""
    memory = Memory(Layout.of(SIZE), create_memory(Layout.of(SIZE).total))
    for name, size in SIZES.items():
        print_stages_of(name, photograph(0, *size), memory)
    pixels = bytes(3 * SIZE * SIZE)
    print(f"pixels through memory {milliseconds(lambda: through_memory(memory, pixels)):.3f} ms")
    print(f"pixels through a pipe {milliseconds(lambda: through_pipe(pixels)):.3f} ms")


def print_stages_of(name: str, data: bytes, memory: Memory) -> None:
    whole = milliseconds(lambda: open_image(data, SIZE))
    print(f"{name}, {len(data) / 1000:.0f} KB: `open_image` takes {whole:.1f} ms")
    for scale in (1, 2, 4, 8):
        image = decoded(data, scale)
        decoding = milliseconds(functools.partial(decoded, data, scale))
        resizing = milliseconds(functools.partial(resized, image))
        print(f"  at 1/{scale} ({image.width}x{image.height}): decode {decoding:6.1f}, resize {resizing:5.1f}")
    if memory.put_file(1, data):
        print(f"  file through memory {milliseconds(lambda: through_memory(memory, data)):.3f}")
    else:
        print(f"  file through a pipe {milliseconds(lambda: through_pipe(data)):.2f}")


def print_slow_disk(seconds: float = 0.02, files: int = 500) -> None:
    """Print how fast files are read from a disk that takes some time for each."""

    def read(item: ClaimedItem) -> FileBytes:
        time.sleep(seconds)
        return FileBytes(b"", "")

    items = [ClaimedItem(number, number, b"x.jpg", 20_000, 0, 0, was_missed=False) for number in range(files)]
    for name, may_overlap in (("one after another", False), ("several at once", True)):
        began = time.monotonic()
        with closing(DiskReader()) as reader, reader.reading(items, read, lambda _, may=may_overlap: may) as reads:
            for _, content in reads:
                content()
        rate = files / (time.monotonic() - began)
        print(f"files that take {seconds * 1000:.0f} ms each, {name}: {rate:.0f} files/s")


def decoded(data: bytes, scale: int) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (image.width // scale, image.height // scale))
        image.load()
        return image


def resized(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def through_memory(memory: Memory, data: bytes) -> None:
    """Write bytes into the memory and copy them out of it."""
    memory.put_pixels(1, memoryview(data))
    memory.take_pixels(1, len(data))


def through_pipe(data: bytes) -> None:
    """Write bytes into a pipe while a thread reads them."""
    out, into = os.pipe()
    with os.fdopen(out, "rb") as source, os.fdopen(into, "wb", buffering=0) as sink:
        reader = threading.Thread(target=source.read, args=(len(data),))
        reader.start()
        sink.write(data)
        reader.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=sorted({1, available_cores()}))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    arguments = parser.parse_args()
    set_for_children("PYTHONPATH", str(Path.cwd()))  # for the module that answers at once
    print_stages()
    print_slow_disk()
    print_rates(arguments.processes, arguments.seconds)


if __name__ == "__main__":
    main()
