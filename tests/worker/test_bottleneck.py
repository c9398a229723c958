"""`worker bench` names the stage that is the limit and the setting that helps."""

from dataclasses import replace
from typing import Any

import pytest

from worker.bench.bottleneck import find_bottleneck
from worker.bench.result import BenchResult, StageResult

FAST = BenchResult(
    images=1000, seconds=10.0, images_per_second=100.0, bare_images_per_second=105.0, of_bare=0.95, batch_size=32,
    batch_fill=1.0, stages={}, process_ms=0.1, memory_mb=900.0, read_mb_per_second=80.0, file_kb=20.0,
    megapixels=24.0, decode_ms=97.0, decode_processes=1, decode_deaths=0, cores=2, files=1000, failed=0,
    model="lstm", runtime="openvino", device="cpu", precision="int8",
)  # fmt: skip


def measured(shares: dict[str, float], **values: Any) -> BenchResult:
    """Return a result in which these stages are busy."""
    names = ("claim", "read", "look up", "decode", "encode", "search", "commit", "wait")
    stages = {name: StageResult(10 * shares.get(name, 0.0), shares.get(name, 0.0), 1) for name in names}
    return replace(FAST, stages=stages, **values)


@pytest.mark.parametrize(
    ("result", "bottleneck", "reason", "remedy"),
    [
        (measured({"encode": 0.6, "search": 0.35}), "device", "the CPU is the limit", "a GPU"),
        (measured({"encode": 0.6, "search": 0.35, "decode": 1.0}), "device", "60%", "a GPU"),
        (
            measured({"encode": 0.6, "search": 0.35}, of_bare=0.7, decode_processes=4, cores=5),
            "device", "the CPU", "CAPTIONING_DECODE_PROCESSES=2",
        ),
        (
            measured({"encode": 0.6, "search": 0.35}, device="cuda:0", runtime="torch"),
            "device", "the GPU is the limit", "a worker on each further GPU",
        ),
        (
            measured({"encode": 0.1, "decode": 0.98}),
            "decode", "images of 24 megapixels take 97 ms each", "CAPTIONING_DECODE_PROCESSES=2 (now 1)",
        ),
        (measured({"decode": 0.9}, decode_processes=2), "decode", "there are 2", "more cores"),
        (measured({"read": 0.97, "decode": 0.3}), "read", "the disk gives 80 MB/s in files of 20 KB", "a faster disk"),
        (measured({"commit": 0.9, "decode": 0.3}), "database", "9 ms to commit", "faster disk"),
        (
            measured({"encode": 0.3, "decode": 0.4}, device="cuda:0", process_ms=0.2, images_per_second=4900.0),
            "process", "200 microseconds", "a second worker",
        ),
    ],
)  # fmt: skip
def test_the_limit_is_named_with_what_helps(result: BenchResult, bottleneck: str, reason: str, remedy: str) -> None:
    found = find_bottleneck(result)
    assert found.bottleneck == bottleneck
    assert reason in found.reason
    assert remedy in found.remedy
