"""The precision is the fastest that the device has, and the same for all who ask."""

import dataclasses
import time

import pytest
import torch

from captioning.bundles import find_bundles
from captioning.errors import UsageError
from captioning.model.openvino_encoder import openvino_precision
from captioning.model.precision import best_precision, faster, torch_dtype
from captioning.model.runtime import Runtime, choose_runtime
from captioning.model.search.layers import fastest_precision


def test_a_cpu_computes_in_bf16_or_fp32() -> None:
    assert best_precision("cpu") in ("bf16", "fp32")
    assert choose_runtime("torch", "cpu").precision == best_precision("cpu")
    assert openvino_precision() in ("bf16", "fp32")


def test_openvino_computes_in_int8_what_has_ranges_for_it() -> None:
    bundle, choice = find_bundles()["lstm"], choose_runtime("openvino", "cpu")
    assert choice.for_bundle(bundle).precision == "int8"
    without = dataclasses.replace(bundle, description={k: v for k, v in bundle.description.items() if k != "int8"})
    assert choice.for_bundle(without).precision == openvino_precision()
    assert choose_runtime("openvino", "cpu", "fp32").for_bundle(bundle).precision == "fp32"


@pytest.mark.parametrize(("runtime", "precision"), [("torch", "int8"), ("torch", "fp16"), ("openvino", "fp16")])
def test_a_precision_that_a_runtime_has_not_is_refused_with_those_that_it_has(runtime: str, precision: str) -> None:
    with pytest.raises(UsageError, match=f"does not compute the encoder in {precision}: set CAPTIONING_PRECISION to"):
        choose_runtime(runtime, "cpu", precision)


def test_bf16_is_chosen_only_where_it_is_measured_to_be_faster() -> None:
    assert faster(lambda: None, lambda: time.sleep(0.02)) == "fp32"
    assert faster(lambda: time.sleep(0.02), lambda: None) == "bf16"
    assert faster(lambda: time.sleep(0.02), lambda: time.sleep(0.02)) == "fp32"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_computes_in_bf16_or_fp16() -> None:
    assert best_precision("cuda") in ("bf16", "fp16")
    assert choose_runtime("auto", "auto").precision == best_precision("cuda:0")


def test_every_precision_is_a_type_of_torch() -> None:
    assert [torch_dtype(name) for name in ("bf16", "fp16", "fp32")] == [torch.bfloat16, torch.float16, torch.float32]


def test_the_precisions_of_a_row_are_those_of_the_encoder_and_of_the_search() -> None:
    assert choose_runtime("torch", "cpu", "fp32").precisions == f"fp32+{fastest_precision('cpu')}"
    assert Runtime("torch", "cuda:0", "bf16", "a test").precisions == "bf16+fp32"


def test_an_apple_gpu_is_used_where_there_is_one_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    chosen = choose_runtime(compiled="auto")
    assert (chosen.name, chosen.device, chosen.precision, chosen.compiles) == ("torch", "mps", "fp32", False)
    assert choose_runtime("auto", "mps", "fp16").precision == "fp16"
    with pytest.raises(UsageError, match=r"torch on mps does not compute the encoder in bf16: .* auto, fp16 or fp32"):
        choose_runtime("auto", "mps", "bf16")
    with pytest.raises(UsageError, match="OpenVINO runs only on the CPU"):
        choose_runtime("openvino", "mps")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_an_apple_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"device mps: torch .* finds no Apple GPU on this machine"):
        choose_runtime("auto", "mps")
