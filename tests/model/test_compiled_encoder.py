"""The compiled form of an encoder: made beside the work, kept, used where it agrees, and never needed."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from captioning.model.compiled_encoder import CompiledEncoder, parts_of, relative_difference

SIZES = (4, 8)


class Small(nn.Module):
    """A small encoder: uint8 pixels (B, S, S, 3) -> (B, N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = torch.relu(self.first(pixels.permute(0, 3, 1, 2) / 255))
        return torch.relu(self.second(maps)).flatten(2).transpose(1, 2)


class Undecided(Small):
    """An encoder that torch cannot compile in one piece."""

    def forward(self, pixels: Tensor) -> Tensor:
        found = super().forward(pixels)
        return found if found.sum().item() > 0 else -found


class Different(Small):
    """An encoder that computes something else where it is compiled."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) + (1.0 if torch.compiler.is_compiling() else 0.0)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 12, 12, 3), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def run(encoder: CompiledEncoder, batch: Tensor, times: int = 5) -> Tensor:
    """Encode a batch often enough for its form to be compiled; return what came last."""
    for _ in range(times):
        found = encoder(batch)
    encoder.wait()
    return found


@given(images=st.integers(1, 2000), sizes=st.sets(st.sampled_from([8, 32, 64, 256])))
def test_the_parts_of_a_batch_have_room_for_it_and_are_at_least_half_full(images: int, sizes: set[int]) -> None:
    *full, last = parts = parts_of(images, sizes)
    assert all(size in sizes for size in full)
    assert sum(full) < images <= sum(parts)
    assert last <= 2 * (images - sum(full))


@pytest.mark.slow
def test_a_compiled_form_is_used_when_it_is_ready_and_agrees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small().eval()
    encoder = CompiledEncoder(network, "fp32", tmp_path / "encoders", SIZES)
    run(encoder, images(8), times=3)
    assert not encoder.sizes  # it may be the only such batch
    run(encoder, images(8))
    assert encoder.sizes == {8}
    run(encoder, images(3))
    assert encoder.sizes == {4, 8}
    with torch.inference_mode():
        for count in (1, 5, 8, 21):
            found, expected = encoder(images(count, seed=1)), network(images(count, seed=1))
            assert found.shape == expected.shape
            assert relative_difference(found, expected) < 1e-4
    (folder,) = (tmp_path / "encoders").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_single_image_is_never_worth_compiling(tmp_path: Path) -> None:
    encoder = CompiledEncoder(Small().eval(), "fp32", tmp_path, SIZES)
    run(encoder, images(1), times=10)
    assert not encoder.sizes
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Undecided, "cannot be compiled here, so captions take longer: "), (Different, "is off by .*, so it is not used")],
)
def test_without_a_compiled_form_one_line_says_why_and_the_encoder_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, network: type[Small], reason: str
) -> None:
    encoder = CompiledEncoder(network().eval(), "fp32", tmp_path, SIZES)
    assert run(encoder, images(8), times=12).shape == (8, 64, 6)
    assert not encoder.sizes
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("captioning"))
    assert re.search(reason, record.getMessage())
    assert "\n" not in record.getMessage()


def test_what_others_may_have_written_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / f"compiled-torch-{torch.__version__}"
    folder.mkdir()
    folder.chmod(0o777)
    encoder = CompiledEncoder(Small().eval(), "fp32", tmp_path, SIZES)
    run(encoder, images(8))
    assert not encoder.sizes
    assert f"others can write to {folder}: delete it" in caplog.text


SECOND_START = """
import sys, torch
from pathlib import Path
from tests.model.test_compiled_encoder import SIZES, CompiledEncoder, Small, images, run
from torch._dynamo.utils import counters
torch.manual_seed(0)
encoder = CompiledEncoder(Small().eval(), "fp32", Path(sys.argv[1]), SIZES)
run(encoder, images(8))
assert encoder.sizes == {8}
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
def test_the_next_process_compiles_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SECOND_START, str(tmp_path)]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first.split() == ["0", "1"]
    assert second.split() == ["1", "0"]
