"""Measure a whole embedded job over a folder of images: `producer submit FOLDER --wait`, from start to end.

Prints three results: the duration of the command; the images per second from the first commit to the last, which
excludes starting the worker and loading the model; and the duration of the same command when every image has a caption.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def submit(folder: str, data: Path) -> tuple[dict[str, object], float]:
    """Run `producer submit`; return its JSON answer and its duration in seconds."""
    producer = str(Path(sys.executable).with_name("producer"))
    environment = os.environ | {"CAPTIONING_DATA_DIR": str(data)}
    started = time.monotonic()
    result = subprocess.run(
        [producer, "submit", folder, "--wait", "--json"], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(result.stdout), time.monotonic() - started


def steady_rate(data: Path) -> float | None:
    """Return the images per second between the first commit and the last; None when there was only one commit."""
    with sqlite3.connect(data / "captions.sqlite") as connection:
        commits = connection.execute("SELECT finished_at, count(*) FROM items GROUP BY 1 ORDER BY 1").fetchall()
    if len(commits) < 2:
        return None
    return float(sum(n for _, n in commits[1:]) / (commits[-1][0] - commits[0][0]))


def main() -> None:
    """Measure the folder that the command line names."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} FOLDER")
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as temporary:
        data = Path(temporary)
        answer, first = submit(sys.argv[1], data)
        rate = steady_rate(data)
        _, again = submit(sys.argv[1], data)
    count = int(str(answer["captioned"]))
    steady = f"{rate:.1f} without" if rate else "too few images to measure without"
    print(f"{count} images in {first:.1f} s: {count / first:.1f} images/s with start-up, {steady}")
    print(f"again, with nothing to do: {again:.1f} s")


if __name__ == "__main__":
    main()
