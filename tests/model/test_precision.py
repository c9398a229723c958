"""The precision is the fastest that the device has, and the same for all who ask."""

import pytest
import torch

from captioning.model.openvino_encoder import openvino_precision
from captioning.model.precision import best_precision, torch_dtype
from captioning.model.runtime import choose_runtime


def test_a_cpu_computes_in_bf16_or_fp32() -> None:
    assert best_precision("cpu") in ("bf16", "fp32")
    assert choose_runtime("torch", "cpu").precision == best_precision("cpu")
    assert choose_runtime("openvino", "cpu").precision == openvino_precision()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_computes_in_bf16_or_fp16() -> None:
    assert best_precision("cuda") in ("bf16", "fp16")
    assert choose_runtime("auto", "auto").precision == best_precision("cuda:0")


def test_every_precision_is_a_type_of_torch() -> None:
    assert [torch_dtype(name) for name in ("bf16", "fp16", "fp32")] == [torch.bfloat16, torch.float16, torch.float32]
