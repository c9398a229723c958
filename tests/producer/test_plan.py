"""`producer plan`: the sample, the estimate with its interval, and what is printed. No model runs here."""

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.probe import BatchTimes, FileTimes, ProbeRequest, ProbeResult, SampleFile
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.preview import Preview
from captioning.values import DecodeOptions
from producer import render_plan
from producer.plan import Plan
from producer.plan.estimate import MODEL_ERROR, START_SECONDS, Estimate, Measured, estimate
from producer.plan.sample import LEAST, MOST, Strata, allocate
from producer.render_plan import duration, size
from tests.journeys.cli_runner import CliRunner

STRATA = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**12)), min_size=1, max_size=30)


def found(number: int, size: int) -> FoundFile:
    return FoundFile(f"{number}.jpg".encode(), size, 0)


def probed(decode: float, model: float, *, processes: int = 1, device: str = "cuda:0", files: int = 8) -> ProbeResult:
    """Return what a probe finds where every image takes the same seconds."""
    times = tuple(FileTimes(number, 0.0, decode) for number in range(files))
    return ProbeResult(times, (BatchTimes(32, 32 * model, 32 * model),) * 3, 2.0, processes, 4, device)


# -- the sample --


@given(STRATA)
def test_a_sample_has_some_files_of_every_size_and_never_more_than_there_are(strata: list[tuple[int, int]]) -> None:
    counts, sizes = map(list, zip(*strata, strict=True))
    shares = allocate(counts, sizes)
    assert all(min(count, LEAST) <= share <= count for count, share in zip(counts, shares, strict=True))
    assert sum(shares) <= max(MOST, LEAST * len(counts)) + len(counts)


def test_large_files_have_the_larger_part_of_a_sample() -> None:
    assert allocate([1000, 1000], [10**7, 10**9]) == [5, 59]


def test_a_sample_that_is_cut_short_still_has_every_size() -> None:
    strata = Strata()
    strata.add([found(number, 1 << (number % 5 + 10)) for number in range(1000)])
    sample = strata.sample()
    assert sum(stratum.count for stratum in strata.all) == 1000
    assert [stratum for stratum, _ in sample[:5]] == [0, 1, 2, 3, 4]
    assert len({file.path for _, file in sample}) == len(sample)


def test_every_file_of_a_size_has_the_same_chance_to_be_measured() -> None:
    strata = Strata()
    strata.add([found(number, 1000) for number in range(10_000)])
    numbers = [int(file.path[:-4]) for file in strata.all[0].files]
    assert len(numbers) == MOST
    middle = sum(numbers) / MOST
    assert abs(middle - 5000) < 4 * 10_000 / math.sqrt(12 * MOST)  # four standard errors of a uniform distribution


def test_a_request_and_its_result_survive_their_way_between_processes() -> None:
    file = SampleFile(b"/photos/\xff", b"caf\xe9.jpg", 7, 1, None)
    request = ProbeRequest("d" * 64, DecodeOptions(beam_size=5), (file,), 1, 30.0, 100)
    assert ProbeRequest.from_text(request.to_text()) == request
    result = probed(0.1, 0.2)
    assert ProbeResult.from_json(result.to_json()) == result


# -- the estimate --


@pytest.mark.parametrize(
    ("probe", "seconds", "limit"),
    [
        (probed(0.01, 0.001), 10.0, "decoding"),
        (probed(0.01, 0.001, processes=4), 2.5, "decoding"),
        (probed(0.001, 0.01), 10.0, "model"),
        (probed(0.001, 0.05, device="cpu"), 50.0, "model"),
        (probed(0.04, 0.04, processes=2, device="cpu", files=8), 40.0, "model"),
    ],
)
def test_a_job_takes_as_long_as_its_slowest_part(probe: ProbeResult, seconds: float, limit: str) -> None:
    made = estimate([Measured(1000, probe.files)], probe)
    assert made.seconds == pytest.approx(seconds + 2.0 + START_SECONDS)
    assert made.images_per_second == pytest.approx(1000 / seconds)
    assert made.limit == limit
    assert made.low_seconds < made.seconds < made.high_seconds


def test_on_a_cpu_decoding_and_the_model_share_the_cores() -> None:
    batch = BatchTimes(32, 32 * 0.01, 32 * 0.04)  # all four cores
    probe = ProbeResult(probed(0.02, 0).files, (batch,), 2.0, 3, 4, "cpu")
    made = estimate([Measured(1000, probe.files)], probe)
    assert made.limit == "cores"
    assert made.images_per_second < 1 / (0.01 + 0.02 / 4)


def test_an_image_that_cannot_be_decoded_takes_no_time_of_the_model() -> None:
    probe = probed(0.001, 0.01)
    failing = tuple(FileTimes(number, 0.0, 0.001, "truncated" if number % 2 else "") for number in range(8))
    work = estimate([Measured(1000, failing)], probe).seconds - 2.0 - START_SECONDS
    assert work == pytest.approx(5.0)


def test_workers_share_the_work_and_not_the_start() -> None:
    probe = probed(0.01, 0.001)
    alone, four = (estimate([Measured(10_000, probe.files)], probe, workers) for workers in (1, 4))
    assert alone.start_seconds == four.start_seconds == 2.0 + START_SECONDS
    assert four.seconds - four.start_seconds == pytest.approx((alone.seconds - alone.start_seconds) / 4)


def test_nine_of_ten_intervals_hold_the_real_time() -> None:
    rng = random.Random(5)
    held = sum(holds_the_real_time(rng) for _ in range(200))
    assert 170 <= held <= 196


def holds_the_real_time(rng: random.Random) -> bool:
    """Make up a folder with images of two sizes, which take very different times; plan it from 24 of them."""
    strata, real = [], 0.0
    for count, middle in ((3000, 0.01), (400, 0.2)):
        all_seconds = [rng.lognormvariate(math.log(middle), 0.6) for _ in range(count)]
        measured = tuple(FileTimes(0, 0.0, seconds) for seconds in rng.sample(all_seconds, 12))
        strata.append(Measured(count, measured))
        real += sum(all_seconds)
    made = estimate(strata, probed(0, 0.0001))
    real_seconds = (real + made.start_seconds) * math.exp(rng.gauss(0, MODEL_ERROR))
    return made.low_seconds <= real_seconds <= made.high_seconds


# -- what is printed --


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (45.4, "45 s"), (119, "2 min"), (5400, "90 min"), (19_300, "5 h 20 min"), (21_540, "6 h"),
     (86_400 * 2.2, "2 days 5 h"), (86_400 * 3, "3 days")],
)  # fmt: skip
def test_a_duration_is_as_precise_as_an_estimate(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 KB"), (999_700, "1.0 MB"), (2.34e7, "23 MB"), (1.1e12, "1.1 TB")],
)
def test_a_size_has_the_unit_that_fits(number: float, text: str) -> None:
    assert size(number) == text


LARGE = Plan(
    workers=1,
    found=1_204_331,
    bytes=1_100_000_000_000,
    preview=Preview(new=1_201_219, known=3_112),
    to_caption=1_201_219,
    measured=64,
    failed=2,
    estimate=Estimate(19_200, 17_400, 21_500, 7, 62.6, "cores"),
)


def test_a_plan_is_three_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    render_plan.print_plan(LARGE, as_json=False)
    assert capsys.readouterr().out == (
        "1,204,331 images (1.1 TB), of which 3,112 have captions.\n"
        "About 5 h 20 min with one worker on this machine (4 h 50 min to 6 h, 90 %).\n"
        "63 images/s; the processor's cores are the limit."
        " Measured: 64 images, of which 2 cannot be captioned.\n"
    )


# -- what is found --


def test_a_plan_of_captioned_images_has_nothing_to_do(
    cli: CliRunner, captioned_store: Database, photographs: Path
) -> None:
    result = cli.producer("plan", str(photographs))
    first, second = result.out.splitlines()
    assert (result.code, second) == (0, "Nothing to do.")
    assert first.startswith("10 images (")
    assert first.endswith("), of which 10 have captions.")
    as_json = cli.producer("plan", str(photographs), "--json").json
    assert (as_json["new"], as_json["known"], as_json["seconds"], as_json["measured"]) == (0, 10, None, 0)


def test_a_plan_without_images_is_one_line(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (["empty"], ["nowhere"], ["empty", "--stale", "--force"], ["empty", "--workers", "0"], []):
        result = cli.producer("plan", *arguments, cwd=tmp_path)
        assert result.code == 2, result
        assert result.err.startswith("producer: ")
        assert result.err.count("\n") == 1
    assert not cli.data.exists()
