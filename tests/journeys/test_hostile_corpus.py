"""A folder of hostile images through the whole product: each gets a caption or a reason, and nothing restarts."""

import base64
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.hostile_images import make_corpus
from tests.journeys.cli_runner import CliRunner
from tests.support.servers import wait_until


@pytest.fixture
def person(tmp_path: Path) -> Iterator[CliRunner]:
    someone = CliRunner(tmp_path / "data", experienced=True)
    yield someone
    wait_until(someone.is_quiet, 15, "everything to have ended")


def thinned(folder: Path, kinds: dict[str, str], every: int) -> dict[str, str]:
    """Take most of the plain files out of a corpus again; return what is left."""
    left = {name: kind for i, (name, kind) in enumerate(kinds.items()) if i % every == 0 or "skipped" in kind}
    for name in kinds.keys() - left.keys():
        (folder / name).unlink()
    return left


def test_the_corpus_is_large_and_the_same_every_time(tmp_path: Path) -> None:
    one, other = make_corpus(tmp_path / "one"), make_corpus(tmp_path / "other")
    assert one == other
    assert len(one) >= 320
    assert sum(kind.startswith("good") for kind in one.values()) >= 20
    small = [name for name in one if (tmp_path / "one" / name).is_file() and "sparse" not in name]
    small.remove("passwd.jpg")
    for name in small:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.timeout(700)
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_hostile_file_gets_a_caption_or_a_reason(person: CliRunner, tmp_path: Path, every: int) -> None:
    folder = tmp_path / "corpus"
    kinds = thinned(folder, make_corpus(folder), every)
    skipped = {name for name, kind in kinds.items() if kind.startswith("skipped")}

    running = person.start(
        "producer", "submit", str(folder), "--wait", "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out, _ = running.communicate(timeout=600)
    assert running.returncode == 3
    answer = json.loads(out)
    assert (answer["scanned"], answer["skipped"]) == (len(kinds) - len(skipped), len(skipped))
    assert answer["new"] == answer["captioned"] + answer["reused"] + answer["failed"]

    rows = {}
    for row in person.producer("export").lines:
        path = base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode()
        rows[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = row
    assert rows.keys() == kinds.keys() - skipped
    assert [name for name, row in rows.items() if kinds[name].startswith("good") and not row["caption"]] == []
    for row in rows.values():
        assert bool(row["caption"]) != bool(row["error"])

    failures = person.producer("failures", "--json").json
    assert Counter(f["path"] for f in failures) == Counter(row["path"] for row in rows.values() if row["error"])
    assert {f["reason"] for f in failures} <= {"unreadable", "truncated", "unsupported", "too_large"}
    assert all(f["detail"] for f in failures)

    log = (person.data / "worker.log").read_text()
    assert log.count("model_loaded") == 1, log  # a pool process that is replaced loads the model again
    assert "WorkerLost" not in log
    assert "Traceback" not in log
