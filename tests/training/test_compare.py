"""The comparison trains every run once, resumes, and writes its results to one HTML page."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from captioning.errors import CaptioningError, UsageError
from training.compare.plan import (
    GRU_CONCEPTS,
    LSTM,
    LSTM_CONCEPTS,
    PLAIN_GRU,
    SAME_BUDGET,
    SAME_WIDTH,
    Plan,
    arms_of,
    main_runs,
    pairs_of,
    same_budget,
    tuning_runs,
)  # fmt: skip
from training.compare.report import write_report
from training.compare.significance import difference
from training.compare.study import compare
from training.config import TrainConfig
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile

PLAN = Plan(seeds=2, epochs=2, rates=(1e-3,), tuning_epochs=1, size=64, min_count=1, val_limit=4)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_comparison_trains_every_run_once_and_writes_a_report(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    found = compare([DataFolder(corpus)], encoder, tmp_path, cache, PLAN, jobs=2)
    assert {arm: len(runs) for arm, runs in found.runs.items()} == {
        LSTM: 2, SAME_WIDTH: 2, SAME_BUDGET: 2, "plain LSTM": 1, PLAIN_GRU: 1,
    }  # fmt: skip
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert result["answer"] == found.answer
    assert len(result["runs"]) == 8
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 3 + 8
    before = {run.name: (run / "run.json").stat().st_mtime_ns for run in runs}
    (runs[-1] / "evaluation.json").unlink()
    started = json.loads((runs[0] / "config.json").read_text())
    del started["config"]["temperature"]  # as if this setting were newer than the run
    (runs[0] / "config.json").write_text(json.dumps(started))
    again = compare([DataFolder(corpus)], encoder, tmp_path, cache, PLAN)
    assert again.answer == found.answer
    assert {run.name: (run / "run.json").stat().st_mtime_ns for run in runs} == before
    assert set(found.differences) == {SAME_WIDTH, SAME_BUDGET}
    page = write_report(found, tmp_path / "report.html").read_text()
    _check_tags(page)
    assert page.count("data:image/jpeg") >= 4 + 3  # examples, and attention maps of three
    assert "reference: A cup of coffee" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "the report is one file"
    other = write_report(found, tmp_path / "own.html", corpus / "Images").read_text()
    assert "reference:" not in other
    with pytest.raises(UsageError, match="belongs to a comparison with other settings"):
        compare([DataFolder(corpus)], encoder, tmp_path, cache, replace(PLAN, epochs=3))


def _check_tags(page: str) -> None:
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Reader().feed(page)
    assert not open_tags


@pytest.mark.slow
def test_a_run_that_fails_is_reported_with_its_reason(
    corpus: Path, encoder: EncoderFile, cache: Path, tmp_path: Path
) -> None:
    plan = Plan(seeds=2, epochs=1, rates=(1e38,), tuning_epochs=3, size=64, min_count=1)
    with pytest.raises(CaptioningError, match=r"training lstm-rate1e\+38-seed0: the loss is nan at step"):
        compare([DataFolder(corpus)], encoder, tmp_path, cache, plan)


@pytest.mark.parametrize("size", [256, 384, 512])
def test_the_same_budget_differs_by_a_percent_at_most(size: int) -> None:
    from captioning.model.decoder import make_decoder
    from training.fit.train import shape_of

    config = TrainConfig(hidden_size=size, memory_size=size)

    def count(cell: str, hidden: int) -> int:
        shape = shape_of(TrainConfig(hidden_size=hidden, memory_size=size), cell, 2538)
        return sum(p.numel() for p in make_decoder(shape).parameters())

    wide = same_budget(config, 2538)
    assert wide > size
    assert count("gru", wide) == pytest.approx(count("lstm", size), rel=0.01)


def test_a_learning_rate_is_not_chosen_at_the_edge_of_those_tried(tmp_path: Path) -> None:
    plan = Plan(rates=(1e-3, 2e-3))
    arms = arms_of(TrainConfig(), 100, plan)

    def tried(found: dict[str, dict[float, float]]) -> set[tuple[str, float]]:
        return {(run.arm, run.config.learning_rate) for run in tuning_runs(tmp_path, plan, arms, found)}

    attention = (LSTM, SAME_WIDTH, SAME_BUDGET)
    assert tried({}) == {(arm, rate) for arm in attention for rate in plan.rates}
    lower, higher, inside = {1e-3: 0.5, 2e-3: 0.4}, {1e-3: 0.4, 2e-3: 0.5}, {1e-3: 0.4, 2e-3: 0.5, 4e-3: 0.3}
    assert tried({LSTM: lower, SAME_WIDTH: higher, SAME_BUDGET: inside}) == {(LSTM, 5e-4), (SAME_WIDTH, 4e-3)}


def test_with_a_classifier_both_cells_are_compared_with_and_without_concepts(tmp_path: Path) -> None:
    plan = Plan(seeds=2, classifier="fc.safetensors", concepts=4)
    arms = arms_of(TrainConfig(), 100, plan)
    assert {arm: arms[arm].concepts for arm in (LSTM, LSTM_CONCEPTS, SAME_WIDTH, GRU_CONCEPTS)} == {
        LSTM: 0, LSTM_CONCEPTS: 4, SAME_WIDTH: 0, GRU_CONCEPTS: 4,
    }  # fmt: skip
    rates = {LSTM: 1e-3, SAME_WIDTH: 2e-3, SAME_BUDGET: 5e-4}
    runs = [(run.arm, run.config.learning_rate) for run in main_runs(tmp_path, plan, arms, rates)]
    assert runs.count((GRU_CONCEPTS, 2e-3)) == runs.count((LSTM_CONCEPTS, 1e-3)) == 2
    assert (LSTM, LSTM_CONCEPTS) in pairs_of(arms).values()
    assert set(pairs_of(arms_of(TrainConfig(), 100, Plan()))) == {SAME_WIDTH, SAME_BUDGET}


def test_a_cell_is_better_only_if_the_difference_is_significant_over_seeds_and_over_images() -> None:
    rng = random.Random(1)
    images = {str(i): rng.uniform(0, 1) for i in range(300)}

    def run(better: float, deviation: float) -> dict[str, float]:
        own = rng.gauss(0, deviation)
        return {n: v + better + own + rng.gauss(0, 0.2) for n, v in images.items()}

    first = [run(0, 0.01) for _ in range(5)]
    assert difference(first, [run(0.2, 0.01) for _ in range(5)]).verdict == "the GRU is better"
    assert difference(first, [run(-0.2, 0.01) for _ in range(5)]).verdict == "the LSTM is better"
    assert "no significant difference" in difference(first, [run(0, 0.01) for _ in range(5)]).verdict
    noisy = [run(0, 0.2) for _ in range(5)]
    assert "no significant difference" in difference(noisy, [run(0.05, 0.2) for _ in range(5)]).verdict
    same = difference(first, first)
    assert same.mean == 0
    assert same.over_images == (0.0, 0.0)
