"""The encoder: where its stride sits matters, and folding changes nothing."""

import copy

import pytest
import torch

from captioning.model.encoder import PixelsToGrid, ResNetEncoder, Stride, fold_batch_norm


def encoder(stride: Stride) -> ResNetEncoder:
    torch.manual_seed(3)
    made = ResNetEncoder(stride)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that aren't trivial
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return made.eval()


@pytest.mark.parametrize("stride", ["1x1", "3x3"])
def test_a_image_becomes_a_grid_of_49_places(stride: Stride) -> None:
    with torch.inference_mode():
        assert encoder(stride)(torch.randn(2, 3, 224, 224)).shape == (2, 49, 2048)


def test_the_two_stride_placements_are_different_functions_of_the_same_weights() -> None:
    one, other = encoder("1x1"), encoder("3x3")
    other.load_state_dict(one.state_dict())
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        a, b = one(pixels), other(pixels)
    assert (a - b).abs().mean() > 0.05 * a.abs().mean()


@pytest.mark.parametrize("stride", ["1x1", "3x3"])
def test_folding_batch_norm_changes_nothing(stride: Stride) -> None:
    plain = encoder(stride)
    folded = fold_batch_norm(copy.deepcopy(plain))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        a, b = plain(pixels), folded(pixels)
    assert torch.allclose(a, b, atol=1e-3 * float(a.abs().max()))


def test_stage_by_stage_is_the_whole() -> None:
    made = encoder("1x1")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(made.stage5(made.stage4(pixels)), made(pixels))


def test_bytes_are_normalised_as_imagenet_is() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    network = PixelsToGrid(encoder("1x1"), mean, std)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    by_hand = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        assert torch.allclose(network(pixels), network.encoder(by_hand), rtol=1e-3, atol=1e-2)
