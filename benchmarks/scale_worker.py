"""The worker of the fault suite, its captioner a stub, that notes how long each claim and each commit took.

The quick timings of the fault suite are taken back: what is measured here are the product's own.
"""

import functools
import os
import time
from pathlib import Path
from typing import Any

from captioning.store import database
from tests.faults import worker  # noqa: F401, installs the stub

database.BUSY_SECONDS = 30

from worker.runner import Runner  # noqa: E402


def _timed(owner: Any, name: str, count: Any) -> None:
    original = getattr(owner, name)
    path = Path(os.environ["SCALE_TIMINGS"]) / f"{name}-{os.getpid()}"

    @functools.wraps(original)
    def timed(*words: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = original(*words, **named)
        took = time.perf_counter() - started
        images = count(words, result)
        if images:
            with path.open("a") as file:
                file.write(f"{time.time():.3f} {took:.6f} {images}\n")
        return result

    setattr(owner, name, timed)


_timed(Runner, "claim", lambda _words, claim: 0 if claim is None else len(claim.work))
_timed(claims, "record", lambda words, _: len(words[2]))

if __name__ == "__main__":
    from worker.cli import main

    main()
