"""A tuned encoder keeps the classes that it saw before."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from captioning.errors import UsageError
from tests.training.conftest import MEMORISING
from tests.training.test_train import read_log
from training.config import TrainConfig
from training.data.data_sets import DataFolder
from training.data.encoders import EncoderFile
from training.fit.classifier import Classifier, open_head
from training.fit.train import run_training
from training.fit.trunk import Trunk


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of twenty classes, which are random directions among the features."""
    path, generator = tmp_path_factory.mktemp("head") / "fc.safetensors", torch.Generator().manual_seed(1)
    weight = torch.randn(20, 2048, generator=generator)
    save_file({"fc.weight": weight / 20, "fc.bias": torch.zeros(20)}, path)
    return path


@pytest.fixture
def maps() -> Tensor:
    return torch.rand(2, 1024, 4, 4, generator=torch.Generator().manual_seed(1))


def test_before_tuning_the_classes_are_the_same(encoder: EncoderFile, head: Path, maps: Tensor) -> None:
    divergence, same = Classifier(open_head(head), encoder, "layer4")(
        maps, Trunk(encoder.load().encoder, "layer4", None)(maps)
    )
    assert divergence.item() == pytest.approx(0, abs=1e-5)
    assert same.item() == 1


def test_changed_features_diverge_and_the_gradient_leads_back(encoder: EncoderFile, head: Path, maps: Tensor) -> None:
    classifier, trunk = Classifier(open_head(head), encoder, "layer4"), Trunk(encoder.load().encoder, "layer4", None)
    grid = trunk(maps).detach()
    shift = nn.Parameter(torch.full((2048,), 0.5))
    found = []
    optimizer = torch.optim.Adam([shift], 0.05)
    for _ in range(20):
        divergence, _ = classifier(maps, grid * (1 + shift))
        optimizer.zero_grad()
        divergence.backward()
        optimizer.step()
        found.append(divergence.item())
    assert found[0] > 1e-3
    assert found[-1] < found[0] / 2
    assert not [name for name, parameter in classifier.named_parameters() if parameter.requires_grad]


@pytest.mark.heavy
def test_a_run_records_the_share_of_images_that_keep_their_class(
    corpus: Path, encoder: EncoderFile, cache: Path, head: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MEMORISING, epochs=2, views=1, encoder_learning_rate=1e-2, classifier=str(head))
    run_training([DataFolder(corpus)], encoder, config, tmp_path, cache, resume=False)
    first, second = (entry["same_class"] for entry in read_log(tmp_path))
    assert first == 1, "nothing has been learned at the first step"
    assert second < 1


def test_files_without_a_classifier_are_refused(tmp_path: Path, encoder: EncoderFile) -> None:
    with pytest.raises(UsageError, match=r"has no classifier: give a file with fc\.weight and fc\.bias"):
        open_head(encoder.weights)
    with pytest.raises(UsageError, match=r"no file .*none\.pth: give a file of weights"):
        open_head(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        open_head(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="contains no weights"):
        open_head(tmp_path / "list.pth")
    save_file({"fc.weight": torch.zeros(20, 512), "fc.bias": torch.zeros(20)}, tmp_path / "small.safetensors")
    with pytest.raises(UsageError, match=r"the shape \(20, 512\), not \(20, 2048\)"):
        open_head(tmp_path / "small.safetensors")


def test_a_classifier_of_a_frozen_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="a frozen encoder forgets nothing"):
        TrainConfig(classifier="fc.safetensors")
