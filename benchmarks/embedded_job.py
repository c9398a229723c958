"""The whole embedded job over a folder of images: as a person would run it, timed from outside and from its rows.

Three figures: the wall clock of `producer submit`; images a second from the first committed micro-batch to the
last, which leaves out starting the worker and loading the model; and the wall clock of the same command again,
when everything is known.
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
    """Run `producer submit` and return its JSON answer and its wall clock in seconds."""
    producer = str(Path(sys.executable).with_name("producer"))
    environment = os.environ | {"CAPTIONING_DATA_DIR": str(data)}
    started = time.monotonic()
    done = subprocess.run(
        [producer, "submit", folder, "--wait", "--json"], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout), time.monotonic() - started


def steady_rate(data: Path) -> float:
    """Return images a second between the first and the last commit."""
    with sqlite3.connect(data / "captions.sqlite") as connection:
        commits = connection.execute("SELECT finished_at, count(*) FROM items GROUP BY 1 ORDER BY 1").fetchall()
    return sum(n for _, n in commits[1:]) / (commits[-1][0] - commits[0][0])


def main() -> None:
    """Measure the folder named on the command line."""
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as place:
        data = Path(place)
        answer, first = submit(sys.argv[1], data)
        rate = steady_rate(data)
        _, again = submit(sys.argv[1], data)
    count = int(str(answer["captioned"]))
    print(f"{count} images in {first:.1f} s: {count / first:.1f} images/s with start-up, {rate:.1f} after it")
    print(f"again, all known: {again:.1f} s")


if __name__ == "__main__":
    main()
