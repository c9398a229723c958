"""The encoder: the position of its stride matters, and folding batch normalisation changes nothing."""

import copy

import pytest
import torch

from captioning.model.encoder import PixelsToGrid, ResNetEncoder, Stride, fold_batch_norm


def make_encoder(stride: Stride) -> ResNetEncoder:
    torch.manual_seed(3)
    encoder = ResNetEncoder(stride)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics other than 0 and 1
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return encoder.eval()


@pytest.mark.parametrize("stride", ["1x1", "3x3"])
def test_an_image_becomes_a_grid_of_7_by_7(stride: Stride) -> None:
    with torch.inference_mode():
        assert make_encoder(stride)(torch.randn(2, 3, 224, 224)).shape == (2, 49, 2048)


def test_the_two_strides_are_different_functions_of_the_same_weights() -> None:
    one, other = make_encoder("1x1"), make_encoder("3x3")
    other.load_state_dict(one.state_dict())
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        a, b = one(pixels), other(pixels)
    assert (a - b).abs().mean() > 0.05 * a.abs().mean()


@pytest.mark.parametrize("stride", ["1x1", "3x3"])
def test_folding_batch_norm_changes_nothing(stride: Stride) -> None:
    plain = make_encoder(stride)
    folded = fold_batch_norm(copy.deepcopy(plain))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        a, b = plain(pixels), folded(pixels)
    assert torch.allclose(a, b, atol=1e-3 * float(a.abs().max()))


def test_the_two_stages_together_are_the_encoder() -> None:
    encoder = make_encoder("1x1")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(encoder.stage5(encoder.stage4(pixels)), encoder(pixels))


def test_pixels_are_normalised_with_mean_and_std() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    network = PixelsToGrid(make_encoder("1x1"), mean, std)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    expected = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        assert torch.allclose(network(pixels), network.encoder(expected), rtol=1e-3, atol=1e-2)
