"""The worker of a scale run: the product with the stub captioner of the fault suite; it records its timings.

With SCALE_MODEL=real it is the product with its model. For each claim and each commit it writes the time, the duration
and the number of images to a file. Timings of the product are unchanged, except that the broker redelivers the messages
of a killed worker after a minute instead of an hour: a run waits at its end until the broker has no message.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioning.queue.celery_app import TRANSPORT_OPTIONS
from tests.faults import stub_captioner
from tests.faults.failpoint_wiring import wrap

IS_REAL = os.environ.get("SCALE_MODEL") == "real"
if not IS_REAL:
    stub_captioner.install()
TRANSPORT_OPTIONS["visibility_timeout"] = 60  # seconds

import worker.runner  # noqa: E402, the stub must be installed first
from captioning.store import results  # noqa: E402

if not IS_REAL:
    worker.runner.DECODE_MODULE = "tests.faults.decode_child"


def record_durations(owner: Any, name: str, count_images: Callable[..., int]) -> None:
    """Record every call of `owner.name` for which `count_images(result, *args)` is not zero."""
    path = Path(os.environ["SCALE_TIMINGS"]) / f"{name}-{os.getpid()}"

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = original(*args, **kwargs)
        seconds = time.perf_counter() - started
        images = count_images(result, *args)
        if images:
            with path.open("a") as file:
                file.write(f"{time.time():.3f} {seconds:.6f} {images}\n")
        return result

    wrap(owner, name, around)


record_durations(worker.runner.Runner, "claim", lambda claim, *_: 0 if claim is None else len(claim.items))
record_durations(results, "commit_batch", lambda _, _db, _claim, outcomes, *_rest: len(outcomes))

if __name__ == "__main__":
    from worker.cli import main

    main()
