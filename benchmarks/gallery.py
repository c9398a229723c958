"""Measure a gallery of many images: writing it, and what a person waits for in Chromium.

python -m benchmarks.gallery --images 50000 [--folder KEPT]

The rows are written by SQL, the captions are made up, and the images are small. The page is opened from the disk.
Needs Chromium and `pip install -e '.[consumers]'`.
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.exports import fill, image_files, measure, open_database

RUNS = 3  # of the browser
SEARCHES = ("dog", "dog beach", "number 49", '"two dogs" -man', "zzz")
# Seconds from a key to the frame after the answer is drawn; and the longest time without a frame while scrolling.
SEARCH = """async (text) => {
    const field = document.getElementById("search"), started = performance.now();
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - started;
}"""
SCROLL = """async () => {
    const gaps = [], height = document.documentElement.scrollHeight;
    let before = performance.now();
    for (let i = 0; i < 120; i++) {
        scrollTo(0, i % 2 ? height * i / 120 : scrollY + 900);
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        gaps.push(now - before);
        before = now;
    }
    gaps.sort((a, b) => a - b);
    return [gaps[60], gaps[113], gaps[119]];
}"""


def make(folder: Path, count: int) -> None:
    """Write the images and their rows."""
    db = open_database(folder)
    fill(db, folder / "photos", image_files(folder / "photos", count))
    db.close()


def look(page: Page, index: Path) -> tuple[float, float, dict[str, float], list[float]]:
    """Return milliseconds: to the first paint, to all rows, of each search, and between frames while scrolling."""
    page.goto(index.as_uri())
    page.wait_for_selector("#grid li img")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.wait_for_function("captionmill.rows.length === captionmill.meta.count")
    loaded = page.evaluate("performance.now()")
    searches = {text: page.evaluate(SEARCH, text) for text in SEARCHES}
    page.evaluate(SEARCH, "")
    return paint, loaded, searches, page.evaluate(SCROLL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, help="keep the gallery here")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "gallery").exists():
            make(folder, args.images)
        command = ["producer", "gallery", "-o", "gallery"]
        for what in ("written", "up to date"):
            seconds, memory = measure(command, folder, folder / "data")
            print(f"{what}: {seconds:.1f} s, {args.images / seconds:.0f} images/s, peak {memory:.0f} MB")
        size = sum(path.stat().st_size for path in (folder / "gallery").rglob("*.*"))
        print(f"size: {size / 1e6:.0f} MB")
        with sync_playwright() as playwright:
            for _ in range(RUNS):
                browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                paint, loaded, searches, frames = look(page, folder / "gallery" / "index.html")
                answers = ", ".join(f"{text} {ms:.0f}" for text, ms in searches.items())
                gaps = ", ".join(f"{ms:.0f}" for ms in frames)
                print(f"first paint {paint:.0f} ms, all rows {loaded:.0f} ms; searches, ms: {answers}")
                print(f"between frames while scrolling: {gaps} ms (50, 95, 100 %)")
                browser.close()


if __name__ == "__main__":
    main()
