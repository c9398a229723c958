"""Take the screenshots of the gallery and the review in docs/images, with the sample photographs and both models.

python -m scripts.screenshots docs/images       # needs Chromium and the extra `consumers`
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from scripts.sample_images import copy_samples

MORE = ("brick.png", "clock_motion.png", "coins.png", "moon.png", "page.png")
WIDTHS = {"phone": (390, 844), "tablet": (834, 900), "desktop": (1440, 900)}
SCHEMES = ("light", "dark")


def run(folder: Path, *words: str) -> None:
    """Run `producer` with a data folder of its own."""
    program = Path(sys.executable).with_name("producer")
    env = os.environ | {"CAPTIONING_DATA_DIR": str(folder / "data")}
    subprocess.run([program, *words], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)


def save(page: Page, path: Path) -> None:
    page.wait_for_timeout(500)  # images are decoded
    page.screenshot(path=path, type="jpeg", quality=80)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1]).resolve()
    folder = Path(tempfile.gettempdir()) / "example"  # a short name: the large view shows it
    folder.mkdir()
    try:
        take(folder, out)
    finally:
        shutil.rmtree(folder)


def take(folder: Path, out: Path) -> None:
    """Caption the photographs below a folder, and take all screenshots."""
    with sync_playwright() as playwright:
        copy_samples(folder / "photographs", MORE)
        for model in ("lstm", "gru"):
            run(folder, "submit", "photographs", "--model", model, "--attention")
        run(folder, "gallery", "-o", "gallery", "--title", "Photographs", "--large", "1200")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in WIDTHS.items():
            for scheme in SCHEMES:
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                page.goto((folder / "gallery/index.html").as_uri())
                page.wait_for_selector("#grid li img")
                save(page, out / f"gallery-{name}-{scheme}.jpg")
                context.close()
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto((folder / "gallery/index.html").as_uri())
        page.click("#grid li:has-text('chelsea')")
        page.hover(".word:has-text('cat')")
        save(page, out / "gallery-attention.jpg")
        env = os.environ | {"CAPTIONING_DATA_DIR": str(folder / "data")}
        program = Path(sys.executable).with_name("producer")
        with subprocess.Popen([program, "review"], env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            page.goto(process.stdout.readline().strip())
            page.click("#grid li >> nth=1")
            page.wait_for_selector('[data-part="edit"] button')
            page.wait_for_timeout(3000)
            page.keyboard.press("e")
            save(page, out / "review.jpg")
            process.send_signal(signal.SIGINT)
        browser.close()


if __name__ == "__main__":
    main()
