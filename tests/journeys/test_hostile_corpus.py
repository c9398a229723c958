"""A folder of hostile images: each gets a caption or a reason, and no worker process restarts."""

import base64
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from scripts.hostile_images import make_corpus
from tests.journeys.cli_runner import CliRunner


def keep_every(folder: Path, descriptions: dict[str, str], step: int) -> dict[str, str]:
    """Delete all but every `step`-th file of a corpus, except those that a walk skips. Describe the rest."""
    kept = {
        name: description
        for i, (name, description) in enumerate(descriptions.items())
        if i % step == 0 or "skipped" in description
    }
    for name in descriptions.keys() - kept.keys():
        (folder / name).unlink()
    return kept


@pytest.mark.slow
def test_the_corpus_is_large_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = make_corpus(tmp_path / "first"), make_corpus(tmp_path / "second")
    assert first == second
    assert len(first) >= 320
    assert sum(description.startswith("good") for description in first.values()) >= 20
    small = [name for name in first if (tmp_path / "first" / name).is_file() and "sparse" not in name]
    small.remove("passwd.jpg")
    for name in small:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.timeout(700)
@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_hostile_file_gets_a_caption_or_a_reason(runner: CliRunner, tmp_path: Path, step: int) -> None:
    folder = tmp_path / "corpus"
    descriptions = keep_every(folder, make_corpus(folder), step)
    skipped = {name for name, description in descriptions.items() if description.startswith("skipped")}

    submit = runner.start(
        "producer", "submit", str(folder), "--wait", "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out, _ = submit.communicate(timeout=600)
    assert submit.returncode == 3
    counts = json.loads(out)
    assert (counts["scanned"], counts["skipped"]) == (len(descriptions) - len(skipped), len(skipped))
    assert counts["new"] == counts["captioned"] + counts["reused"] + counts["failed"]

    rows = {}
    for row in runner.producer("export").lines:
        path = base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode()
        rows[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = row
    assert rows.keys() == descriptions.keys() - skipped
    assert [name for name, row in rows.items() if descriptions[name].startswith("good") and not row["caption"]] == []
    for row in rows.values():
        assert bool(row["caption"]) != bool(row["error"])

    failures = runner.producer("failures", "--json").json
    assert Counter(f["path"] for f in failures) == Counter(row["path"] for row in rows.values() if row["error"])
    assert {f["reason"] for f in failures} <= {"unreadable", "truncated", "unsupported", "too_large"}
    assert all(f["detail"] for f in failures)

    log = (runner.data / "worker.log").read_text()
    assert log.count("model_loaded") == 1, log  # a pool process that replaces another one loads the model again
    assert "WorkerLost" not in log
    assert "Traceback" not in log
