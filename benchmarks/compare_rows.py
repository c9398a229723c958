"""The rows of `benchmarks.compare`: ours, the competitors, and what was tried to make the competitors faster."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

from captioning.environment import math_thread_settings

OURS, BASE = "ours", "base"
UNQUANTISED = "unquantised"


@dataclass(frozen=True)
class Row:
    """One way to caption a folder."""

    title: str
    module: str = ""  # of a competitor; empty: a producer
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)  # environment variables


ROWS = {
    OURS: Row("captionmill, `producer submit --wait`"),
    UNQUANTISED: Row("captionmill, the encoder not quantised", settings={"CAPTIONING_PRECISION": "fp32"}),
    "bare": Row("(e) bare encoder and search, pixels in memory", "bare", settings=math_thread_settings()),
    "script": Row("(b) careful script, DataLoader, torch", "careful_script"),
    "ray": Row("(c) Ray Data `map_batches`, torch", "ray_data"),
    "celery": Row("(d) a Celery task for each image, our captioner", "celery_tasks", settings=math_thread_settings()),
    "seed": Row("(a) one image at a time, fp32, torch", "one_at_a_time"),
    "seed-greedy": Row("(a) one image at a time, greedy", "one_at_a_time", ("--beam", "1")),
}

TRIED = {  # competitors with other options: to see, with --tried, that the options of ROWS are their best
    "script-0-2": Row("(b) decoding in the same process", "careful_script", ("--workers", "0")),
    "script-2-1": Row("(b) two decode, one thread of torch", "careful_script", ("--workers", "2", "--threads", "1")),
    "script-bf16": Row("(b) bf16", "careful_script", ("--precision", "bf16")),
    "script-fp32": Row("(b) fp32", "careful_script", ("--precision", "fp32")),
    "script-8": Row("(b) batches of 8", "careful_script", ("--batch", "8")),
    "ray-fused": Row("(c) one stage, in the actor", "ray_data", ("--actor_cores", "1")),
    "ray-1": Row("(c) one thread of torch", "ray_data", ("--threads", "1")),
    "celery-2": Row("(d) two processes", "celery_tasks", ("--concurrency", "2")),
}


def rows_of(given: argparse.Namespace) -> dict[str, Row]:
    """Return the rows that the command line asks for."""
    rows = ROWS | ({BASE: Row(f"captionmill, {given.base_name}")} if given.base else {})
    if given.tried:
        rows = {key: row for key, row in ROWS.items() if key in ("script", "ray", "celery")} | TRIED
    unknown = set(given.only or ()) - set(rows)
    if unknown:
        raise SystemExit(f"--only: no row is called {', '.join(sorted(unknown))}; rows: {', '.join(rows)}")
    return {key: row for key, row in rows.items() if not given.only or key in given.only}
