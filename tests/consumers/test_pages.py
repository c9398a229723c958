"""The gallery and the review in a real browser: keys, accessibility, other pages. Runs with --consumers only.

It needs the extra `consumers` and Chromium.
"""

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

import migrations
from captioning.settings import read_settings
from captioning.store import leases
from captioning.store.captions import export_rows
from captioning.store.database import Database
from captioning.store.schema import Attention, Caption
from captioning.values import DecodeOptions
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, submit
from scripts.sample_images import copy_samples
from scripts.scenes import saved, scene
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import GRU, LSTM, StoreDriver, captioned

pytestmark = pytest.mark.filterwarnings("ignore")  # of the consumers, which are not ours to mend

PROJECT = Path(__file__).parents[2]
ALL_SAVED = "Object.entries(localStorage).every(([name, value]) => !name.endsWith('outbox') || value === '[]')"
MORE = 110  # small images besides the photographs


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with 120 images; two models have captioned them, one file has failed, names are hostile."""
    photos = tmp_path / "photos"
    copy_samples(photos)
    for i in range(MORE):
        (photos / f"{i:03d}.jpg").write_bytes(saved(scene(), "JPEG") + str(i).encode())
    (photos / "<img src=x onerror=alert(1)>.jpg").write_bytes(saved(scene(), "JPEG"))
    settings = read_settings(data_dir=tmp_path / "data")
    db = Database.open(settings)
    migrations.ensure_schema(db)
    for model, text in ((LSTM, "two dogs run on the beach"), (GRU, "two cats run on a street")):
        submit(
            db, settings, SubmitRequest(read_sources([os.fsencode(photos)]), Filters(), model, DecodeOptions()), print
        )
        driver = StoreDriver(db, os.fsencode(photos))
        for claim in driver.claim_all():
            digests = [sha256((photos / os.fsdecode(item.path)).read_bytes()).hexdigest() for item in claim.items]
            driver.commit_batch(claim, [captioned(*one) for one in zip(
                claim.items, [f"{text} {item.file_id}" for item in claim.items], digests, strict=True)])  # fmt: skip
            leases.complete(db, claim)
    with db.writing() as connection:
        for caption_id in connection.execute(sa.select(Caption.id)).scalars().all():
            words = [-0.1 * n for n in range(8)]
            connection.execute(sa.update(Caption).where(Caption.id == caption_id).values(word_log_probabilities=words))
            connection.execute(sa.insert(Attention).values(caption_id=caption_id, weights=bytes(range(7 * 4))))
    db.close()
    return settings.data_dir


def captions_of(data: Path) -> dict[int, tuple[str | None, str | None]]:
    db = Database.open(read_settings(data_dir=data))
    found = {row.file_id: (row.caption, row.source) for row in export_rows(db)}
    db.close()
    return found


@contextmanager
def page_of(chromium: Browser, width: int = 1280, height: int = 900, scheme: str = "light") -> Iterator[Page]:
    """Open a page that fails the test when it reports an error."""
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"a script ran: {dialog.message}"))
    yield page
    context.close()
    assert problems == []


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]


@pytest.mark.parametrize(("width", "height"), [(360, 740), (820, 1100), (1440, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view_of_the_gallery(
    chromium: Browser, data: Path, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    CliRunner(data).run("producer", "gallery", "-o", str(tmp_path / "gallery"))
    with page_of(chromium, width, height, scheme) as page:
        page.goto((tmp_path / "gallery" / "index.html").as_uri())
        page.wait_for_selector("#grid li img")
        assert violations(page) == []
        page.click("#filters-button")
        assert violations(page) == []
        page.select_option("#compare-0", "0")
        page.select_option("#compare-1", "1")
        page.fill("#search", "dogs")
        assert violations(page) == []
        page.click("#filters-button")
        page.click("#grid li >> nth=0")
        page.wait_for_selector(".word")
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert violations(page) == []


def test_the_keyboard_reaches_everything_in_the_gallery(chromium: Browser, data: Path, tmp_path: Path) -> None:
    CliRunner(data).run("producer", "gallery", "-o", str(tmp_path / "gallery"))
    with page_of(chromium) as page:
        page.goto((tmp_path / "gallery" / "index.html").as_uri())
        page.wait_for_selector("#grid li img")
        count = page.inner_text("#count")
        assert count.startswith("121 images")
        page.keyboard.press("/")
        page.keyboard.type("beach -dogs")
        assert "0 of 121" in page.inner_text("#count")
        page.fill("#search", "")
        page.keyboard.press("Enter")  # from the search to the first image
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector("#viewer[open] .word")
        assert page.inner_text('[data-part="position"]') == "2 of 121"
        page.keyboard.press("ArrowRight")
        assert page.inner_text('[data-part="position"]') == "3 of 121"
        page.hover(".word >> nth=1")
        assert page.is_visible('[data-part="heat"]')
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.closest('li').ariaPosInSet") == "3"
        page.keyboard.press("End")
        assert page.evaluate("document.activeElement.closest('li').ariaPosInSet") == "121"
        assert page.evaluate("document.querySelectorAll('#grid li').length") < 80


@contextmanager
def review(data: Path, end: int = signal.SIGINT) -> Iterator[str]:
    """Serve the review; yield its link."""
    command = [sys.executable, "-P", "-m", "captionmill", "producer.cli", "review"]
    env = os.environ | {"CAPTIONING_DATA_DIR": str(data), "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(end)


def wait_until(page: Page, condition: str) -> None:
    """Wait for a condition. The browser's own way would need a policy that lets text be run."""
    deadline = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def type_corrections(page: Page, first: int, count: int) -> None:
    for i in range(first, first + count):
        page.keyboard.press("e")
        page.wait_for_selector("#editor")
        page.keyboard.type(f"corrected {i}")
        page.keyboard.press("Enter")
        page.wait_for_selector("#editor", state="detached")


def test_of_a_hundred_corrections_by_keyboard_none_is_lost_when_the_server_is_killed(
    chromium: Browser, data: Path
) -> None:
    with page_of(chromium) as page:
        with review(data, end=signal.SIGKILL) as link:
            page.goto(link)
            page.wait_for_selector("#grid li img")
            assert "#" not in page.url
            page.keyboard.press("ArrowRight")
            page.click("#grid li >> nth=0")
            type_corrections(page, 0, 40)
        type_corrections(page, 40, 5)  # nobody answers
        wait_until(page, "document.getElementById('waiting').textContent.includes('wait')")
        with review(data, end=signal.SIGKILL):
            wait_until(page, "!document.getElementById('waiting').textContent")
            type_corrections(page, 45, 30)
            page.keyboard.press("e")
            page.keyboard.type("corrected 75")  # and not saved
        with review(data) as link:
            page.goto(link)
            page.reload()
            page.wait_for_selector("#grid li img")
            assert page.inner_text("#drafts") == "1 unsaved"
            page.click("#drafts")
            page.click("#grid li >> nth=0")
            page.wait_for_selector("#editor")
            assert page.input_value("#editor") == "corrected 75"
            page.press("#editor", "Enter")
            page.keyboard.press("Escape")
            wait_until(page, ALL_SAVED)
            assert page.is_hidden("#drafts")
            page.select_option("#queue", "all")
            page.select_option("#queue", "open")
            wait_until(page, "document.getElementById('count').textContent.startsWith('45 images')")
            page.click("#grid li >> nth=0")
            page.wait_for_selector('[data-part="edit"] button')
            type_corrections(page, 76, 24)
            wait_until(page, ALL_SAVED)
        written = [caption for caption, source in captions_of(data).values() if source == "human"]
        assert sorted(written) == sorted(f"corrected {i}" for i in range(100))


def test_a_page_of_another_origin_can_neither_read_nor_write(chromium: Browser, data: Path, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "index.html").write_text("<!DOCTYPE html><title>evil</title>")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "evil"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as evil, review(data) as link:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        before = captions_of(data)
        origin, token = link.split("/#")
        with page_of(chromium) as page:
            page.goto(link)  # the browser has the cookie
            page.wait_for_selector("#grid li img")
            image = page.get_attribute("#grid li img", "src")
            page.goto(f"http://127.0.0.1:{evil.server_port}/")  # the same site, another port
            attempts = """async ([origin, image, token]) => {
                const outcome = [];
                const body = JSON.stringify({ id: 1, version: "", action: "correct", text: "evil", ids: [1] });
                for (const path of ["/api/edit", "/api/rows", "/login"]) {
                    for (const mode of ["cors", "no-cors"]) {
                        try {
                            const headers = mode === "cors" ? { "X-Captionmill-Token": token } : {};
                            const answer = await fetch(origin + path,
                                { method: "POST", mode, body, credentials: "include", headers });
                            outcome.push(await answer.text());
                        } catch { outcome.push("refused"); }
                    }
                }
                outcome.push(await new Promise((done) => {
                    const img = new Image();
                    img.onload = () => done("an image was shown");
                    img.onerror = () => done("refused");
                    img.src = `${origin}/${image}`;
                }));
                outcome.push(await new Promise((done) => {
                    const frame = document.createElement("iframe");
                    frame.onload = () => done(frame.contentDocument ? frame.contentDocument.title : "refused");
                    frame.src = `${origin}/`;
                    document.body.append(frame);
                }));
                return outcome;
            }"""
            outcome = page.evaluate(attempts, [origin, image, token])
            assert set(outcome) <= {"refused", ""}, outcome
        assert captions_of(data) == before
        evil.shutdown()


def test_axe_finds_nothing_in_the_review(chromium: Browser, data: Path) -> None:
    for scheme in ("light", "dark"):
        with review(data) as link, page_of(chromium, scheme=scheme) as page:
            page.goto(link)
            page.wait_for_selector("#grid li img")
            assert violations(page) == []
            page.click("#grid li >> nth=0")
            page.wait_for_selector(".word")
            page.keyboard.press("x")
            page.wait_for_selector("#toast:popover-open")
            assert violations(page) == []
            page.keyboard.press("e")
            page.wait_for_selector("#editor")
            assert violations(page) == []
