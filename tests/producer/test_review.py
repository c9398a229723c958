"""The review obeys only the page that has the link, and never lets one person overwrite another's words."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from captioning.store import edits
from captioning.store.captions import export_rows
from captioning.store.database import Database
from producer.review.session import FILE

PROJECT = Path(__file__).parents[2]


class Browser:
    """Sends requests as a page of the review would, or another one."""

    def __init__(self, link: str) -> None:
        self.link = link
        address, self.token = link.split("/#")
        self.port = int(address.rpartition(":")[2])
        self.headers = {"X-Captionmill-Token": self.token, "Content-Type": "application/json"}

    def ask(
        self, method: str, path: str, body: object = None, **headers: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in sent.items() if value is not None}
        connection.request(method, path, None if body is None else json.dumps(body), given)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), data

    def post(self, name: str, /, **body: object) -> tuple[int, Any]:
        status, _, data = self.ask("POST", f"/api/{name}", body)
        return status, json.loads(data)

    def rows(self) -> tuple[list[dict[str, Any]], list[str]]:
        fields = self.post("meta")[1]["fields"]
        found = self.post("rows", ids=self.post("queue", name="all", where="")[1]["ids"])[1]
        return [dict(zip(fields, row, strict=True)) for row in found["rows"]], found["versions"]


@contextmanager
def serving(data: Path, *arguments: str, end: int = signal.SIGINT) -> Iterator[Browser]:
    """Run the server, and end it with a signal."""
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, env=env(data), text=True) as process:
        assert process.stdout is not None
        try:
            yield Browser(process.stdout.readline().strip())
        finally:
            process.send_signal(end)
            code = process.wait(30)
    assert code == (-signal.SIGKILL if end == signal.SIGKILL else 0)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "captionmill", "producer.cli", "review", *arguments]


def env(data: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONING_")}
    return kept | {"CAPTIONING_DATA_DIR": str(data), "PYTHONPATH": str(PROJECT)}


@pytest.fixture
def browser(readable_store: Database, tmp_path: Path) -> Iterator[Browser]:
    with serving(tmp_path / "data", "--port", str(free_port())) as browser:
        yield browser


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_person_accepts_corrects_rejects_and_undoes(browser: Browser, readable_store: Database) -> None:
    rows, versions = browser.rows()
    assert len(rows) == 10
    status, answer = browser.post("edit", id=rows[0]["id"], version=versions[0], action="correct", text=" Rex & Anna ")
    assert status == 200
    assert browser.post("edit", id=rows[1]["id"], version=versions[1], action="accept", text="")[0] == 200
    assert browser.post("edit", id=rows[2]["id"], version=versions[2], action="reject", text="")[0] == 200
    assert browser.post("edit", id=rows[3]["id"], version=versions[3], action="correct", text="")[0] == 200
    by_id = {row.file_id: row for row in export_rows(readable_store)}
    found = [(by_id[row["id"]].caption, by_id[row["id"]].source, by_id[row["id"]].status) for row in rows[:4]]
    assert found == [
        ("Rex & Anna", "human", "captioned"), (rows[1]["caption"], "human", "captioned"), (None, None, "rejected"),
        ("", "human", "captioned"),
    ]  # fmt: skip
    assert browser.post("undo", change=answer["change"], id=rows[0]["id"])[0] == 200
    assert browser.rows()[0][0]["caption"] == rows[0]["caption"]
    sizes = browser.post("counts")[1]
    assert (sizes["open"], sizes["human"], sizes["rejected"], sizes["all"]) == (7, 2, 1, 10)
    queued = browser.post("queue", name="open", where="dogs -path:coffee")[1]["ids"]
    assert set(queued) <= {row["id"] for row in rows} - {rows[1]["id"], rows[2]["id"], rows[3]["id"]}


def test_an_edit_of_a_caption_that_another_person_has_changed_is_refused_and_shows_it(
    browser: Browser, readable_store: Database
) -> None:
    rows, versions = browser.rows()
    edits.correct(readable_store, rows[0]["id"], "another person's words")
    for action in ("correct", "accept", "reject"):
        status, answer = browser.post("edit", id=rows[0]["id"], version=versions[0], action=action, text="mine")
        assert status == 409
        assert "was changed meanwhile" in answer["error"]
        assert "another person's words" in answer["rows"][0]
    (row,) = [row for row in export_rows(readable_store) if row.file_id == rows[0]["id"]]
    assert row.caption == "another person's words"


def test_without_the_secret_nothing_is_read_or_written(browser: Browser) -> None:
    cookie = browser.ask("POST", "/login", {})[1]["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert browser.token not in cookie  # other servers on this machine get the cookie
    name = cookie.partition(";")[0]
    assert str(browser.port) in name.partition("=")[0]
    image = f"/image/small/{browser.rows()[0][0]['id']}"
    assert browser.ask("GET", image, Cookie=name)[0] == 200
    assert browser.ask("GET", image)[0] == 401
    for token in (None, "", "x", name.partition("=")[2]):
        headers = {"X-Captionmill-Token": token, "Cookie": name}
        assert browser.ask("POST", "/api/rows", {"ids": [1]}, **headers)[0] == 401
        assert browser.ask("POST", "/login", {}, **headers)[0] == 401
    assert browser.ask("GET", "/")[0] == 200  # has no data


def test_other_pages_and_other_names_of_this_machine_are_refused(browser: Browser) -> None:
    cookie = browser.ask("POST", "/login", {})[1]["Set-Cookie"].partition(";")[0]
    image = f"/image/small/{browser.rows()[0][0]['id']}"
    for path in ("/", image, "/page/main.js"):
        for host in ("evil.example", f"evil.example:{browser.port}", "127.0.0.1", f"127.0.0.1:{browser.port + 1}"):
            assert browser.ask("GET", path, Host=host, Cookie=cookie)[0] == 421
    for origin in ("http://evil.example", f"http://127.0.0.1:{browser.port + 1}", "null"):
        assert browser.ask("POST", "/api/rows", {"ids": [1]}, Origin=origin)[0] == 403
    for site in ("same-site", "cross-site"):  # another port of this machine is the same site
        assert browser.ask("GET", image, Cookie=cookie, Sec_Fetch_Site=site)[0] == 403
        assert browser.ask("POST", "/api/rows", {"ids": [1]}, Sec_Fetch_Site=site)[0] == 403
    for path in ("/", image, "/page/main.js", "/nothing", "/api/rows"):
        headers = browser.ask("GET", path, Cookie=cookie)[1]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_bad_requests_get_a_status_and_change_nothing(browser: Browser, readable_store: Database) -> None:
    before = list(export_rows(readable_store))
    rows, versions = browser.rows()
    good = {"id": rows[0]["id"], "version": versions[0], "action": "correct", "text": "x"}
    assert browser.post("edit", **good | {"id": 10**9})[0] == 422
    assert browser.post("edit", **good | {"action": "drop"})[0] == 422
    assert browser.post("edit", **good | {"text": "a\0b"})[0] == 422
    assert browser.post("edit", **good | {"text": "x" * 20_001})[0] == 422
    assert browser.post("queue", name="none", where="")[0] == 422
    assert browser.post("queue", name="all", where="(dog")[0] == 422
    assert browser.ask("POST", "/api/edit", {"id": 1})[0] == 400
    assert browser.ask("POST", "/api/rows", {"ids": "1"})[0] == 400
    assert browser.ask("POST", "/api/rows", [1])[0] == 400
    assert browser.ask("POST", "/api/close", {})[0] == 404
    assert browser.ask("POST", "/api/edit", good, Content_Type="text/plain")[0] == 415
    for path in ("/page/../session.py", "/page/index.html", "/image/small/x", "/image/large/999999999", "/etc/passwd"):
        assert browser.ask("GET", path)[0] in (401, 404)
    assert list(export_rows(readable_store)) == before


def test_after_a_kill_the_same_link_goes_on_and_no_edit_is_lost(readable_store: Database, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--port", str(free_port()), end=signal.SIGKILL) as browser:
        rows, versions = browser.rows()
        assert browser.post("edit", id=rows[0]["id"], version=versions[0], action="correct", text="Rex")[0] == 200
    with serving(tmp_path / "data", end=signal.SIGTERM) as again:
        assert again.link == browser.link
        assert (tmp_path / "data" / FILE).stat().st_mode & 0o777 == 0o600
        assert {row["id"]: row["caption"] for row in browser.rows()[0]}[rows[0]["id"]] == "Rex"


def test_a_port_that_is_in_use_is_refused_or_another_one_taken(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path / "data") as other:  # the session of the running server has its port
        assert other.port != browser.port
        assert other.post("meta")[0] == 200
    done = subprocess.run(
        command("--port", str(browser.port)), capture_output=True, text=True, env=env(tmp_path / "data"), check=False
    )
    assert done.returncode == 2
    assert "cannot be used" in done.stderr
