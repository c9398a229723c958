"""Which stage is the limit, in a sentence, and which setting helps."""

from typing import NamedTuple

from captioning.environment import PREFIX
from worker.bench.result import BenchResult

BUSY = 0.85  # share of its time from which a stage is the limit


class Finding(NamedTuple):
    """The stage that is the limit."""

    bottleneck: str
    reason: str
    remedy: str


def find_bottleneck(result: BenchResult) -> Finding:
    """Return the limit. The device comes first: a stage that keeps it busy is fast enough."""
    if result.stages["encode"].share + result.stages["search"].share >= BUSY:
        return _device(result)
    shares = {name: result.stages[name].share for name in ("decode", "commit", "read")}
    busiest = max(shares, key=lambda name: shares[name])
    process = result.process_ms * result.images_per_second / 1000  # cores that the worker's process uses
    if shares[busiest] < BUSY and result.device != "cpu" and process >= BUSY:
        return _process(result)
    return {"decode": _decode, "commit": _database, "read": _read}[busiest](result)


def _device(result: BenchResult) -> Finding:
    encode, search = result.stages["encode"].share, result.stages["search"].share
    where = f"the {'CPU' if result.device == 'cpu' else 'GPU'} is the limit"
    reason = f"{where}: the encoder takes {encode:.0%} of the time and the search of words {search:.0%}."
    if result.of_bare < BUSY and result.decode_processes > 1 and result.device == "cpu":
        fewer = max(1, result.decode_processes // 2)
        return Finding("device", reason, f"decode processes use its cores too: try {PREFIX}DECODE_PROCESSES={fewer}")
    if result.device == "cpu":
        return Finding("device", reason, "a GPU, or workers on more machines; beam size 1 costs less than 3")
    return Finding("device", reason, "a worker on each further GPU or machine; beam size 1 costs less than 3")


def _decode(result: BenchResult) -> Finding:
    count, cores = result.decode_processes, result.cores
    size = f"images of {result.megapixels:.2g} megapixels take {result.decode_ms:.3g} ms each in a decode process"
    reason = f"decoding is the limit: {size}, and there {'is 1' if count == 1 else f'are {count}'}."
    if count < cores:
        return Finding("decode", reason, f"{PREFIX}DECODE_PROCESSES={cores} (now {count})")
    return Finding("decode", reason, "more cores, or workers on machines without a GPU; smaller copies of the images")


def _read(result: BenchResult) -> Finding:
    rate = f"{result.read_mb_per_second:.3g} MB/s in files of {result.file_kb:.3g} KB"
    return Finding(
        "read", f"reading is the limit: the disk gives {rate}.", "a faster disk, or a copy on a disk of this machine"
    )


def _database(result: BenchResult) -> Finding:
    milliseconds = result.stages["commit"].seconds / max(1, result.images) * 1000
    reason = f"the database is the limit: it takes {milliseconds:.2g} ms to commit an image."
    return Finding("database", reason, "a faster disk for it; this is SQLite in a temporary folder, not your database")


def _process(result: BenchResult) -> Finding:
    reason = f"the worker's process is the limit: Python takes {1000 * result.process_ms:.0f} microseconds an image."
    return Finding("process", reason, "a second worker on the same GPU")
