"""How fast a job runs as it grows: more images, more workers, larger images. The model is the real one.

python -m benchmarks.growth --out docs/speed                     # 20 minutes on two cores
python -m benchmarks.growth --out growth --cell-seconds 20 --only 1000-1-224,1000-2-224

Each cell of the table is a job of its own, on PostgreSQL and with workers that start with it: all images are
registered, then captioned for some seconds, then the job is cancelled. The images are made up and all different.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.decode import photograph
from benchmarks.report import COLOURS, INK, markdown_table, number, put_into_page, save_plot, style, write_json
from benchmarks.scale_deployment import Deployment

FOLDER_SIZE = 1000  # files in a folder
SIDES = {224: (224, 224), 1000: (1155, 866), 12_000: (4000, 3000), 24_000: (6000, 4000)}  # by thousands of pixels
_START_SECONDS = 120.0  # that workers may take to the first commit


@dataclass(frozen=True)
class Cell:
    """One job."""

    images: int
    workers: int
    size: int  # a key of SIDES

    @property
    def key(self) -> str:
        return f"{self.images}-{self.workers}-{self.size}"


CELLS = [
    *(Cell(images, 1, 224) for images in (1_000, 10_000, 100_000)),
    *(Cell(10_000, workers, 224) for workers in (2, 4)),
    *(Cell(images, 1, size) for images, size in ((1_000, 1000), (1_000, 12_000), (500, 24_000))),
]


@dataclass(frozen=True)
class Found:
    """What a cell gave; milliseconds are medians."""

    images: int
    workers: int
    size: int
    captioned: int
    steady: float | None  # images/s from the first commit to the last
    register_seconds: float
    first_commit_seconds: float | None  # after the workers were started
    claim_ms: float | None
    commit_ms: float | None  # for each image
    worker_mb: float  # resident, of the largest worker with its processes


def make_images(folder: Path, count: int, size: int) -> Path:
    """Write images of a size unless they exist: some photographs, each copy with a comment of its own."""
    root = folder / f"{count}-{size}"
    if root.exists():
        return root
    photographs = [photograph(seed, *SIDES[size]) for seed in range(8 if size < 10_000 else 2)]
    for first in range(0, count, FOLDER_SIZE):
        below = root / f"{first // FOLDER_SIZE:04d}"
        below.mkdir(parents=True)
        some = enumerate(islice(cycle(photographs), min(FOLDER_SIZE, count - first)), start=first)
        for i, data in some:
            (below / f"{i:07d}.jpg").write_bytes(with_comment(data, f"{i:07d}"))
    return root


def with_comment(jpeg: bytes, text: str) -> bytes:
    """Return a JPEG with a comment at its beginning."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def run_cell(cell: Cell, images: Path, cell_seconds: float) -> Found:
    """Register the images of a cell, caption them for some seconds, and cancel the job."""
    with (
        tempfile.TemporaryDirectory(prefix="captionmill-growth-") as temporary,
        closing(Deployment(Path(temporary), "postgresql", model="real")) as deployment,
    ):
        began = time.monotonic()
        if deployment.start_producer("submit", str(images)).wait():
            raise SystemExit("submit failed: " + (deployment.folder / "logs" / "producer.log").read_text())
        registered = time.monotonic() - began
        for _ in range(cell.workers):
            deployment.start_worker()
        first, memory = watch(deployment, cell, cell_seconds)
        deployment.start_producer("cancel", "1").wait()
        return found_in(deployment, cell, registered, first, memory)


def watch(deployment: Deployment, cell: Cell, seconds: float) -> tuple[float | None, int]:
    """Wait until the time after the first commit is over or the job is done.

    Returns the seconds to the first commit, and the most memory of a worker in bytes.
    """
    began, first, memory = time.monotonic(), None, 0
    while True:
        time.sleep(1)
        done = deployment.number("SELECT count(*) FROM items WHERE state <> 'pending'")
        memory = max([memory, *deployment.worker_memory()])
        now = time.monotonic()
        if first is None and done:
            first = now - began
        if done == cell.images or now - began > (_START_SECONDS if first is None else first + seconds):
            return first, memory


def found_in(deployment: Deployment, cell: Cell, registered: float, first: float | None, memory: int) -> Found:
    """Read what the workers and the database have recorded."""
    commits = [
        (float(str(at)), int(str(count)))
        for at, count in deployment.rows(
            "SELECT finished_at, count(*) FROM items WHERE state <> 'pending' GROUP BY 1 ORDER BY 1"
        )
    ]
    seconds = commits[-1][0] - commits[0][0] if len(commits) > 1 else 0.0
    claims, writes = timings(deployment, "claim"), timings(deployment, "commit_batch")
    return Found(
        **asdict(cell),
        captioned=sum(count for _, count in commits),
        steady=sum(count for _, count in commits[1:]) / seconds if seconds else None,
        register_seconds=registered,
        first_commit_seconds=first,
        claim_ms=_median([1000 * took for took, _ in claims]),
        commit_ms=_median([1000 * took / count for took, count in writes]),
        worker_mb=memory / 1e6,
    )


def timings(deployment: Deployment, name: str) -> list[tuple[float, int]]:
    """Return the seconds and the images of each recorded call of all workers."""
    files = (deployment.folder / "timings").glob(f"{name}-*")
    lines = [line.split() for file in files for line in file.read_text().splitlines()]
    return [(float(seconds), int(images)) for _, seconds, images in lines]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def table(cells: list[dict[str, Any]]) -> str:
    columns = (
        "images",
        "workers",
        "size",
        "images/s, steady",
        "register, s",
        "claim, ms",
        "commit, ms an image",
        "first caption after, s",
        "memory of a worker, MB",
    )
    rows = [
        [
            f"{cell['images']:,}",
            str(cell["workers"]),
            size_text(cell["size"]),
            number(cell["steady"]),
            number(cell["register_seconds"]),
            number(cell["claim_ms"]),
            number(cell["commit_ms"]),
            number(cell["first_commit_seconds"]),
            number(cell["worker_mb"]),
        ]
        for cell in cells
    ]
    return markdown_table(columns, rows)


def size_text(size: int) -> str:
    return "224 px" if size == 224 else f"{size // 1000} MP"


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Draw images/s against images, workers and size, one panel each."""
    from matplotlib import pyplot as plt

    base = {"images": 10_000, "workers": 1, "size": 224}
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained", sharey=True)
    for axes, name, fixed in zip(
        panels, ("images", "workers", "size"), (("workers", "size"), ("images", "size"), ("workers",)), strict=True
    ):
        chosen = [cell for cell in cells if cell["steady"] and all(cell[key] == base[key] for key in fixed)]
        if name == "size":
            chosen = [cell for cell in chosen if cell["size"] != 224 or cell["images"] == 1_000]
        chosen.sort(key=lambda cell: cell[name])
        texts = [size_text(cell[name]) if name == "size" else f"{cell[name]:,}" for cell in chosen]
        bars = axes.bar(range(len(chosen)), [cell["steady"] for cell in chosen], 0.6, color=COLOURS[0])
        axes.bar_label(bars, [number(cell["steady"]) for cell in chosen], padding=2, fontsize=8, color=INK)
        axes.set_xticks(range(len(chosen)), texts, fontsize=9)
        axes.set_title({"images": "images in the job", "workers": "workers", "size": "size of an image"}[name],
                       fontsize=10, color=INK)  # fmt: skip
        style(axes)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.15)
    panels[0].set_ylabel("images/s", color=INK)
    save_plot(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/speed"), help="folder of the table and the plot")
    parser.add_argument("--cell-seconds", type=float, default=60.0, help="of captioning, for each cell")
    parser.add_argument("--only", type=lambda text: text.split(","), help="cells: IMAGES-WORKERS-SIZE, with commas")
    parser.add_argument("--images", type=Path, help="folder for the images, which are kept there")
    given = parser.parse_args()
    cells = [cell for cell in CELLS if not given.only or cell.key in given.only]
    if not cells:
        raise SystemExit(f"--only: cells are {', '.join(cell.key for cell in CELLS)}")
    found = []
    with tempfile.TemporaryDirectory(prefix="captionmill-growth-images-") as temporary:
        folder = given.images or Path(temporary)
        for cell in cells:
            found.append(asdict(run_cell(cell, make_images(folder, cell.images, cell.size), given.cell_seconds)))
            print(found[-1], flush=True)
    write_json({"cell_seconds": given.cell_seconds, "cells": found}, given.out / "growth.json")
    draw(found, given.out / "growth.svg")
    plot = f"![Images per second by images, workers and size]({given.out.name}/growth.svg)"
    put_into_page(given.out.with_suffix(".md"), "growth", f"{plot}\n\n{table(found)}")
    print(table(found))


if __name__ == "__main__":
    main()
