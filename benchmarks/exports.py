"""Measure exports: time and peak memory of the commands on the how-to pages, and of tables with a million rows.

python -m benchmarks.exports rows --rows 1000000             # tables, on SQLite
python -m benchmarks.exports pages --images 20000            # the commands of three how-to pages, with image files

Each command runs as a program of its own, and the kernel tells its memory (ru_maxrss). The rows are written by SQL and
the captions are made up: what is measured is the producer and the store, not a model.
"""

import argparse
import csv
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import sqlalchemy as sa

import migrations
from captioning.paths import hash_of
from captioning.settings import read_settings
from captioning.store.captions import caption_digest
from captioning.store.database import Database
from captioning.store.schema import Caption, File, Image, Model, Root
from scripts.scenes import saved, scene
from tests.docs.pages import PROJECT, code_lines

_PAGE = 20_000
TABLES = ("captions.jsonl", "captions.csv", "captions.parquet", "captions.json")
PAGES = ("training-set.md", "photo-archive.md", "alt-text.md")
XMP = (PROJECT / "tests/producer/xmp/lightroom/none.xmp").read_bytes()


def fill(db: Database, root: Path, files: Iterator[tuple[str, str, int, int]]) -> int:
    """Write the rows of captioned files, given as path below the root, SHA-256, size and time; return how many."""
    with db.writing() as connection:
        model = {"digest": "0" * 64, "name": "lstm", "is_default": True, "card": {}, "created_at": 1.0}
        model_id = connection.execute(sa.insert(Model).values(model).returning(Model.id)).scalar_one()
        path = os.fsencode(root)
        values = {"name": root.name, "path": str(root), "path_bytes": path, "path_hash": hash_of(path)}
        root_id = connection.execute(sa.insert(Root).values(values).returning(Root.id)).scalar_one()
    count = 0
    while page := list(islice(files, _PAGE)):
        numbers = range(count + 1, count + len(page) + 1)
        with db.writing() as connection:
            connection.execute(sa.insert(Image), [
                {"id": n, "sha256": sha256, "width": 640, "height": 480, "format": "JPEG", "bytes": size}
                for n, (_, sha256, size, _) in zip(numbers, page, strict=True)
            ])  # fmt: skip
            connection.execute(sa.insert(File), [
                {"id": n, "root_id": root_id, "path": path, "path_bytes": path.encode(),
                 "path_hash": hash_of(path.encode()), "size": size, "mtime_ns": mtime, "image_id": n}
                for n, (path, _, size, mtime) in zip(numbers, page, strict=True)
            ])  # fmt: skip
            connection.execute(sa.insert(Caption), [
                {"id": n, "image_id": n, "source": "machine", "model_id": model_id, "options_digest": "",
                 "created_at": 1.0, "text": f"a man and two dogs on the beach number {n}", "confidence": n % 100 / 100}
                for n in numbers
            ])  # fmt: skip
        count += len(page)
    return count


def measure(command: list[str], folder: Path, data: Path) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB. Raises SystemExit when it fails."""
    environment = os.environ | {"CAPTIONING_DATA_DIR": str(data)}
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{shlex.join(command)}: {output.read().decode()}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def rows(folder: Path, count: int) -> None:
    """Measure tables with many rows."""
    db = open_database(folder)
    made = ((f"{n // 1000:05d}/{n:09d}.jpg", f"{n:064x}", 100_000 + n, 1) for n in range(count))
    fill(db, folder / "photos", made)
    db.close()
    print(f"{count} rows\n\n| command | seconds | rows/s | peak, MB |\n|---|---|---|---|")
    for name in TABLES:
        report(["producer", "export", "-o", name], folder, count)
    report(["producer", "import", "captions.jsonl", "--dry-run"], folder, count)


def image_files(folder: Path, count: int, *, with_xmp: bool = False) -> Iterator[tuple[str, str, int, int]]:
    """Write small images into nested folders and yield what `fill` takes; half have XMP if it is wanted."""
    content = saved(scene(), "JPEG")
    for n in range(count):
        path = folder / f"{n // 1000:03d}" / f"{n:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content + str(n).encode()
        path.write_bytes(data)
        if with_xmp and n % 2:
            path.with_suffix(".xmp").write_bytes(XMP)
        found = path.stat()
        yield str(path.relative_to(folder)), hashlib.sha256(data).hexdigest(), found.st_size, found.st_mtime_ns


def pages(folder: Path, count: int) -> None:
    """Measure the commands of the how-to pages, on image files in nested folders; half have XMP of another program."""
    db = open_database(folder)
    fill(db, folder / "photos", image_files(folder / "photos", count, with_xmp=True))
    db.close()
    print(f"{count} images\n\n| command | seconds | images/s | peak, MB |\n|---|---|---|---|")
    for page in PAGES:
        for line in code_lines((PROJECT / "docs/how-to" / page).read_text()):
            command = shlex.split(line)
            if command[:2] in (["producer", "export"], ["producer", "import"], ["producer", "replace"]):
                if command[:3] == ["producer", "import", "alt.csv"]:
                    edit(folder / "alt.csv")
                if "training" not in command:
                    report(command, folder, count)


def edit(table: Path) -> None:
    """Correct one caption of ten, as a person does in a spreadsheet."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    for line in lines[::10]:
        line["caption"] = f"corrected: {caption_digest(line['path'])}"
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def open_database(folder: Path) -> Database:
    db = Database.open(read_settings(data_dir=folder / "data"))
    migrations.ensure_schema(db)
    return db


def report(command: list[str], folder: Path, count: int) -> None:
    """Measure a command and print a line of the table."""
    program = str(Path(sys.executable).with_name(command[0]))
    seconds, peak = measure([program, *command[1:]], folder, folder / "data")
    print(f"| `{shlex.join(command)}` | {seconds:.1f} | {count / seconds:.0f} | {peak:.0f} |", flush=True)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["rows", "pages"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as temporary:
        if arguments.what == "rows":
            rows(Path(temporary), arguments.rows)
        else:
            pages(Path(temporary), arguments.images)


if __name__ == "__main__":
    main()
