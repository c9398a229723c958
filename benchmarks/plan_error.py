"""How wrong `producer plan` is: plans folders of mixed sizes, captions them, and compares.

python -m benchmarks.plan_error FOLDER --out docs/speed          # a quarter of an hour on two cores

FOLDER has photographs, which are enlarged: each test folder has its own mixture of sizes, from 224 pixels to 12
megapixels. Plan and run follow each other, with a compiled encoder that is kept, as on a machine in use.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.report import markdown_table, number, put_into_page, write_json

SIDES = (224, 500, 1200, 2400, 4000)  # pixels of the longer side
_PRODUCER = str(Path(sys.executable).with_name("producer"))


def make_folder(folder: Path, photographs: list[Path], count: int, seed: int) -> dict[str, int]:
    """Fill a folder with enlarged photographs, in a random mixture of sizes; return how many there are of each."""
    rng = random.Random(seed)
    weights = [rng.expovariate(1) ** 2 / math.sqrt(side) for side in SIDES]  # large ones are rarer
    counts: dict[str, int] = {}
    folder.mkdir()
    for i, path in enumerate(rng.sample(photographs, min(count, len(photographs)))):
        side = rng.choices(SIDES, weights)[0]
        counts[str(side)] = counts.get(str(side), 0) + 1
        with Image.open(path) as image:
            scale = side / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=92)
    return counts


def producer(data: Path, *arguments: str) -> tuple[dict[str, Any], float]:
    """Run `producer`; return its JSON answer and its duration in seconds."""
    began = time.monotonic()
    environment = os.environ | {"CAPTIONING_DATA_DIR": str(data)}
    command = [_PRODUCER, *arguments, "--json"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began


def measure(folder: Path, data: Path) -> dict[str, Any]:
    """Plan a folder, then caption it."""
    plan, took = producer(data, "plan", str(folder))
    _, real = producer(data, "submit", str(folder), "--wait")
    return {
        "images": plan["new"],
        "planned": plan["seconds"],
        "low": plan["low_seconds"],
        "high": plan["high_seconds"],
        "limit": plan["limit"],
        "start": plan["start_seconds"],
        "real": real,
        "plan_took": took,
    }


def table(found: list[dict[str, Any]]) -> str:
    columns = ("images, by the longer side in pixels", "planned, s", "90 %", "real, s", "real / planned")
    rows = []
    for one in found:
        mixture = ", ".join(f"{one['sizes'][side]} of {side}" for side in sorted(one["sizes"], key=int))
        interval = f"{number(one['low'])} to {number(one['high'])}"
        rows.append(
            [mixture, number(one["planned"]), interval, number(one["real"]), f"{one['real'] / one['planned']:.2f}"]
        )
    return markdown_table(columns, rows)


def summary(found: list[dict[str, Any]]) -> str:
    """Return the sentence about the errors."""
    errors = [one["real"] / one["planned"] - 1 for one in found]
    sizes = sorted(map(abs, errors))
    inside = sum(one["low"] <= one["real"] <= one["high"] for one in found)
    logs = [math.log(1 + error) for error in errors]
    spread = f", standard deviation of log(real / planned) {statistics.stdev(logs):.3f}" if len(logs) > 1 else ""
    return (
        f"Error: median {100 * statistics.median(sizes):.0f} %, worst {100 * sizes[-1]:.0f} %; mean"
        f" {100 * statistics.mean(errors):+.0f} %{spread}. {inside} of {len(found)} intervals held the real time."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs, at least as many as --images")
    parser.add_argument("--out", type=Path, default=Path("docs/speed"))
    parser.add_argument("--folders", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000, help="in a test folder; each has between half and all")
    given = parser.parse_args()
    photographs = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not photographs:
        raise SystemExit(f"{given.folder} has no JPEG files")
    found = []
    with tempfile.TemporaryDirectory(prefix="captionmill-plan-") as temporary:
        warm = Path(temporary) / "warm"
        make_folder(Path(temporary) / "few", photographs, 4, 0)
        producer(warm, "submit", str(Path(temporary) / "few"), "--wait")
        for number_of_folder in range(given.folders):
            folder, data = Path(temporary) / "images", Path(temporary) / "data"
            count = random.Random(number_of_folder).randint(given.images // 2, given.images)
            sizes = make_folder(folder, photographs, count, number_of_folder)
            shutil.copytree(warm / "runtime", data / "runtime")
            found.append(measure(folder, data) | {"sizes": sizes})
            print(found[-1], flush=True)
            shutil.rmtree(folder)
            shutil.rmtree(data)
    text = f"{table(found)}\n\n{summary(found)}"
    write_json(found, given.out / "plan.json")
    put_into_page(given.out.with_suffix(".md"), "plan", text)
    print(text)


if __name__ == "__main__":
    main()
