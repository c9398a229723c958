"""The probe: what images of a sample take on this machine to read, to decode and to caption, for `producer plan`.

It uses the worker's code and settings, stores nothing, and asks neither the database nor the broker. The request comes
on standard input (`captioning.probe`); progress, and then the result or an error, go to standard output, one JSON
object a line.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle, groupby, islice

import psutil

from captioning.bundles import find_bundles
from captioning.decoding.pool import DecodePool, open_pool
from captioning.environment import available_cores
from captioning.errors import CaptioningError, ImageError
from captioning.model.captioner import Captioner
from captioning.model.pixels import Pixels
from captioning.model.runtime import choose_runtime
from captioning.probe import BatchTimes, FileTimes, ProbeRequest, ProbeResult, SampleFile
from captioning.settings import Settings, read_settings
from captioning.store.claims import ClaimedItem
from worker.adaptive_batch import AdaptiveBatch
from worker.file_reader import FileReader
from worker.log import set_up_log
from worker.model_cache import ModelCache
from worker.reader import FileBytes

_MAX_BATCHES = 8
_MIN_BATCHES = 2  # of the model, whatever the time
_MODEL_SECONDS = 5.0


def main() -> None:
    """Measure what standard input asks for."""
    request = ProbeRequest.from_text(sys.stdin.readline())
    try:
        settings = read_settings()
        set_up_log(settings.log)
        _tell(result=measure(settings, request).to_json())
    except CaptioningError as error:
        _tell(error=str(error))


def measure(settings: Settings, request: ProbeRequest) -> ProbeResult:
    """Measure the files and the model. Raises CaptioningError."""
    runtime = choose_runtime(settings.runtime, settings.device, settings.precision, settings.compile)
    folder = settings.model_cache if settings.model_cache.is_dir() else None  # a plan creates no data folder
    models = ModelCache.of(find_bundles(settings.bundle_folders), runtime, folder)
    _tell(text="loading the model")
    captioner = models.captioner(request.digest)
    load_seconds = time.time() - psutil.Process().create_time()
    count = settings.decode_processes or max(1, available_cores() - 1)
    size = captioner.preprocessing.size
    with closing(open_pool(settings, size, count)) as pool, closing(FileReader(settings)) as files:
        pool.started()  # so that the first image does not wait for it
        times, images = _measure_files(request, files, pool)
    batch_size = AdaptiveBatch(settings.batch_size, runtime.device).size
    batches = tuple(_measure_model(captioner, request, images, batch_size)) if images else ()
    return ProbeResult(tuple(times), batches, load_seconds, count, available_cores(), runtime.device)


def _measure_files(request: ProbeRequest, reader: FileReader, pool: DecodePool) -> tuple[list[FileTimes], list[Pixels]]:
    """Read and decode files, one after another; return what each took, and the pixels."""
    times, images = list[FileTimes](), list[Pixels]()
    until = time.monotonic() + request.seconds
    for root, numbered in groupby(enumerate(request.files), key=lambda pair: pair[1].root):
        items = [_item(number, file) for number, file in numbered]
        with reader.reading(root, items, lambda: None) as reads:
            for item, read in reads:
                if len(times) >= request.at_least and time.monotonic() > until:
                    return times, images
                _tell(done=len(times))
                times.append(_measure_file(item.item_id, read, pool, images))
    return times, images


def _measure_file(number: int, read: Callable[[], FileBytes], pool: DecodePool, images: list[Pixels]) -> FileTimes:
    """Read and decode a file, and append its pixels to `images`; return what that took."""
    began, read_at, failed = time.monotonic(), None, ""
    try:
        data = read().data
        read_at = time.monotonic()
        images.append(pool.decode(data).pixels)
    except ImageError as error:
        failed = error.reason
    ended = time.monotonic()
    return FileTimes(number, (read_at or ended) - began, ended - (read_at or ended), failed)


def _item(number: int, file: SampleFile) -> ClaimedItem:
    return ClaimedItem(number, 0, file.path, file.size, file.mtime_ns, 0, was_missed=False, ctime_ns=file.ctime_ns)


def _measure_model(
    captioner: Captioner, request: ProbeRequest, images: list[Pixels], batch_size: int
) -> Iterator[BatchTimes]:
    """Caption full batches, of the same images again where there are too few; yield what each took."""
    size = min(batch_size, request.total)
    source = cycle(images)
    until = time.monotonic() + _MODEL_SECONDS
    batches = AdaptiveBatch()  # which halves them where the device is short of memory
    batches.caption(captioner, list(islice(source, size)), request.options)  # the first one of a size may compile
    for number in range(_MAX_BATCHES):
        if number >= _MIN_BATCHES and time.monotonic() > until:
            return
        batch = list(islice(source, size))
        began, cpu = time.monotonic(), time.process_time()
        batches.caption(captioner, batch, request.options)
        yield BatchTimes(size, time.monotonic() - began, time.process_time() - cpu)


def _tell(**message: object) -> None:
    print(json.dumps(message), flush=True)
